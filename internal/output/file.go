package output

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// openFile opens a file, a FIFO or a terminal that a service's output is appended
// to, and makes the file if there is none. The caller closes it. It never waits (a
// FIFO without a reader is refused with ENXIO), and a terminal does not become
// ours (O_NOCTTY). What can be waited for is non-blocking, so that a deadline ends a
// write to it.
//
// Where another user may write no symbolic link is followed: the service owns its
// logs_directory, and a link in it would make us append what the service says to any
// file of the host. A file that has a second name is refused there: a hard link would do the same. Where everybody may
// write a file is refused that another user has made, who would read what the service says.
func openFile(path string) (*os.File, error) {
	place, err := fd.WalkTo(path)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	if err := refuseFolder(place); err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	file, err := place.Open(unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY, 0o640)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: explainAbsence(place, err)}
	}
	var stat unix.Stat_t
	if err = unix.Fstat(file, &stat); err == nil {
		err = refusePlanted(place, &stat)
	}
	if err != nil {
		_ = unix.Close(file)
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(file), path), nil
}

// hardLinksGuarded reports whether a file gets a second name only from a user who may write it, proc_sys_fs(5). A
// test has another answer.
var hardLinksGuarded = func() bool { return proc.ReadSysctl("fs.protected_hardlinks") == "1" }

// refuseFolder refuses every file in a folder that another user may write, or a service, where these can give any file of the
// host a second name there. How many names a file has is no answer then: it is another one a moment later.
func refuseFolder(place *fd.Place) error {
	if !place.Foreign() || hardLinksGuarded() {
		return nil
	}
	return &fd.CuredError{
		Err:  fmt.Errorf("%w: somebody else may write its folder, and fs.protected_hardlinks is not 1, so it could be any file of the host", unix.EPERM),
		Cure: "set that (sysctl fs.protected_hardlinks=1), or choose a folder that only you may write",
	}
}

// refusePlanted refuses what another user may have put there, since it is another file of the host too.
func refusePlanted(place *fd.Place, stat *unix.Stat_t) error {
	if !place.Foreign() {
		return nil
	}
	if stat.Nlink > 1 {
		return &fd.CuredError{Err: fmt.Errorf("%w: the file has another name, and somebody else may write its folder", unix.EMLINK), Cure: "copy it, and put the copy in its place"}
	}
	// The kernel's rule, where fs.protected_regular and fs.protected_fifos are 1, proc_sys_fs(5).
	folder, err := place.Stat(".")
	if err == nil && folder.Mode&0o002 != 0 && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() && stat.Uid != folder.Uid {
		return &fd.CuredError{Err: fmt.Errorf("%w: uid %d has made it, in a folder that everybody may write", unix.EACCES, stat.Uid), Cure: "remove it, or choose a folder that only you may write"}
	}
	return err
}

// explainAbsence says what is missing when the kernel says that a device is.
func explainAbsence(place *fd.Place, err error) error {
	stat, failed := place.Stat(place.Name)
	switch {
	case err != unix.ENXIO || failed != nil:
	case stat.Mode&unix.S_IFMT == unix.S_IFIFO:
		return &fd.CuredError{Err: fmt.Errorf("%w: nobody reads this FIFO", err), Cure: "start its reader first, or print to a file"}
	case isOwnTerminal(&stat):
		return &fd.CuredError{Err: fmt.Errorf("%w: the activator has no terminal", err), Cure: `write "log" or "inherit", or print to a file`}
	}
	return err
}

// isOwnTerminal reports whether a file is /dev/tty, the terminal of the session of the process that opens it, tty(4).
func isOwnTerminal(stat *unix.Stat_t) bool {
	return stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == unix.Mkdev(5, 0)
}
