package fd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// deepest is how many folders in each other are held open at a time.
const deepest = 200

// RemoveFolder removes the folder at name with everything in it, if it is still id. No
// link is followed. What cannot be removed stays.
func (f *Folder) RemoveFolder(name string, id ID) error {
	path := filepath.Join(f.path, name)
	fd, s, err := openStatus(f.fd, name, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if s.id != id {
		return &os.PathError{Op: "remove", Path: path, Err: fmt.Errorf("%w: another folder stands there now", unix.ESTALE)}
	}
	r := removal{top: fd, moved: 1}
	for r.moved > r.done {
		r.done = r.moved
		r.emptyFolder(fd, 0)
	}
	if err := unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR); err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// removal empties a folder. What is too deep in it is moved to its top first.
type removal struct {
	top         int
	moved, done int // folders moved; when all was empty but for the last of them
}

func (r *removal) emptyFolder(folder, depth int) {
	names, err := listNames(folder)
	if err != nil {
		return
	}
	for _, name := range names {
		if err := unix.Unlinkat(folder, name, 0); err != unix.EISDIR && err != unix.EPERM {
			continue
		}
		if depth == deepest {
			for err = unix.EEXIST; err == unix.EEXIST; r.moved++ {
				err = unix.Renameat2(folder, name, r.top, ".deep-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
			}
			continue
		}
		if fd, err := openAt(folder, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
			r.emptyFolder(fd, depth+1)
			_ = unix.Close(fd)
		}
		_ = unix.Unlinkat(folder, name, unix.AT_REMOVEDIR)
	}
}
