package output

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/kernel/fd"
)

// ExamineFile says why [Sink.OpenTarget] would certainly be refused. It makes nothing.
func ExamineFile(path string) error {
	place, err := fd.WalkTo(path)
	var link *fd.LinkError
	if errors.As(err, &link) {
		return err
	}
	if err == nil {
		defer place.Close()
	}
	refused := func(err error) error { return &os.PathError{Op: "open", Path: path, Err: err} }
	if place != nil {
		if err := refuseFolder(place); err != nil {
			return refused(err)
		}
	}
	var stat unix.Stat_t
	switch err := unix.Stat(path, &stat); {
	case err == unix.ENOENT:
		if unix.Lstat(path, &stat) == nil {
			return nil // a link to what is not there: it may be followed, or not
		}
		if folder := filepath.Dir(path); unix.Stat(folder, &stat) == unix.ENOENT {
			return refused(unix.ENOENT)
		} else if errno := access.CheckMakeIn(folder); errno != 0 {
			return refused(errno)
		}
	case err == unix.EACCES, err == unix.ENOTDIR, err == unix.ELOOP:
		return refused(err)
	case err != nil:
	case stat.Mode&unix.S_IFMT == unix.S_IFDIR:
		return refused(unix.EISDIR)
	case stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return refused(unix.ENXIO)
	default:
		if errno := access.CheckWrite(path); errno != 0 {
			return refused(errno)
		}
		if place != nil {
			if err := refusePlanted(place, &stat); err != nil {
				return refused(err)
			}
		}
		if isOwnTerminal(&stat) { // to open it does nothing
			f, err := openFile(path)
			if err != nil {
				return err
			}
			_ = f.Close()
		}
	}
	return nil
}

// IsFIFO reports whether a file is a FIFO, which can be opened only while somebody reads it. Whether somebody does cannot be
// found out: to open and close it would end what its reader reads.
func IsFIFO(path string) bool {
	place, err := fd.WalkTo(path)
	if err != nil {
		return false
	}
	defer place.Close()
	stat, err := place.Stat(place.Name)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO
}
