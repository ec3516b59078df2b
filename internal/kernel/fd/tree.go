package fd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// deepest is how many folders in each other are held open at a time.
const deepest = 200

// GiveTo makes everything in the folder belong to a user and a group, and the folder itself last:
// if it is interrupted, the next one begins again. No link is followed.
//
// Refused is what another user may have put there to have it given away: a folder with something
// in it, at a place where others may put folders, that is not of the owner of that place;
// and a file that has another name somewhere and does not belong to the folder's old owner.
func (f *Folder) GiveTo(uid, gid int) error {
	if !f.steady && f.uid != f.above {
		if names, err := f.List(); err != nil || len(names) > 0 {
			return &os.PathError{Op: "chown", Path: f.path,
				Err: &CuredError{fmt.Errorf("%w: it belongs to uid %d, is not empty, and stands below %s", unix.EPERM, f.uid, f.why), fmt.Sprintf("give it to uid %d by hand", uid)}}
		}
	}
	g := giving{uid: uid, gid: gid, from: f.uid}
	if err := g.giveAll(f.fd, f.path, 0); err != nil {
		return err
	}
	return chownFile(f.fd, f.path, uid, gid)
}

// giving is a change of owners.
type giving struct {
	uid, gid int
	from     uint32 // the old owner
}

func (g *giving) giveAll(folder int, path string, depth int) error {
	fd, err := openAt(folder, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	if depth == deepest {
		return &os.PathError{Op: "chown", Path: path, Err: fmt.Errorf("%w: more than %d folders in each other", unix.ENAMETOOLONG, deepest)}
	}
	names, err := listNames(fd)
	if err != nil {
		return &os.PathError{Op: "read", Path: path, Err: err}
	}
	for _, name := range names {
		if err := g.giveOne(fd, filepath.Join(path, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// giveOne gives away what stands at a path in folder. What is looked at is what is given, whatever
// becomes of the name.
func (g *giving) giveOne(folder int, path string, depth int) error {
	fd, err := openAt(folder, filepath.Base(path), unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	s, err := readStatus(fd)
	if err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if s.is(unix.S_IFDIR) {
		if err := g.giveAll(fd, path, depth+1); err != nil {
			return err
		}
	} else if IsPlanted(uint64(s.links), s.uid, g.from, uint32(g.uid)) {
		return &os.PathError{Op: "chown", Path: path,
			Err: &CuredError{fmt.Errorf("%w: it has another name, belongs to uid %d and would be given to %d", unix.EMLINK, s.uid, g.uid), "remove it"}}
	}
	return chownFile(fd, path, g.uid, g.gid)
}

// IsPlanted reports whether a file in a folder that another user may write can be there by a second
// name that this user gave it, link(2): where fs.protected_hardlinks is 0 that user need not be able to write or
// read it for that. The files of owners may have more names.
func IsPlanted(links uint64, owner uint32, owners ...uint32) bool {
	return links > 1 && !slices.Contains(owners, owner)
}

func chownFile(fd int, path string, uid, gid int) error {
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}

// RemoveFolder removes the folder at name with everything in it, if it is still id. No
// link is followed. What cannot be removed stays.
func (f *Folder) RemoveFolder(name string, id ID) error {
	path := filepath.Join(f.path, name)
	fd, err := f.Open(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	s, err := readStatus(fd)
	if err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
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
