package fd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// GiveTo makes the folder belong to a user and a group, with everything in it that belonged to its
// owner, and the folder itself last: if it is interrupted, the next one begins again. No link is
// followed. What belongs to anybody else stays as it is, and a folder of theirs is not entered:
// the owner of a folder can move files of others into it, rename(2).
//
// Refused is a folder with something in it that somebody may have put there to have it given away: one
// that stands where others may put folders, and is root's or not of the owner of that place; and one
// of root's in which others may write.
func (f *Folder) GiveTo(uid, gid int) (Given, error) {
	s, err := readStatus(f.fd)
	if err != nil {
		return Given{}, &os.PathError{Op: "stat", Path: f.path, Err: err}
	}
	names, err := f.List()
	if err != nil {
		return Given{}, err
	}
	g := giving{uid: uid, gid: gid, Given: Given{From: int(s.uid)}}
	if len(names) > 0 {
		if err := f.refuseGiving(&s, uid); err != nil {
			return Given{}, err
		}
		if err := g.giveAll(f.fd, f.path, 0); err != nil {
			return g.Given, err
		}
	}
	return g.Given, chownFile(f.fd, f.path, uid, gid)
}

// Given says what has become of a folder that has another owner now.
type Given struct {
	From        int // whom it belonged to
	Files, Left int // how many files and folders in it belong to the new owner now, and how many still to others
}

// refuseGiving says why what is in the folder may not be given away.
func (f *Folder) refuseGiving(s *status, uid int) error {
	refused := func(why, cure string) error {
		return &os.PathError{Op: "chown", Path: f.path, Err: &CuredError{
			Err:  fmt.Errorf("%w: it belongs to uid %d, is not empty, and %s", unix.EPERM, s.uid, why),
			Cure: fmt.Sprintf(cure, uid),
		}}
	}
	switch {
	case !f.steady && (s.uid == 0 || s.uid != f.above):
		return refused("stands below "+f.why, "give it to uid %d by hand")
	case s.uid == 0 && s.isOpen(f.path):
		return refused("others may write it", "look at what is in it, and give it to uid %d by hand")
	}
	return nil
}

// giving is a change of owners.
type giving struct {
	uid, gid int
	Given
}

func (g *giving) giveAll(folder int, path string, depth int) error {
	if depth == deepest {
		return &os.PathError{Op: "chown", Path: path, Err: fmt.Errorf("%w: more than %d folders in each other", unix.ENAMETOOLONG, deepest)}
	}
	names, err := listFolder(folder)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for _, name := range names {
		if err := g.giveOne(folder, filepath.Join(path, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// looked is for a test: it is called between the look at a file and its change of owner.
var looked = func() {}

// giveOne gives away what stands at a path in folder. What is looked at is what is given, whatever
// becomes of the name. How many names the file has says nothing, as that can change meanwhile.
func (g *giving) giveOne(folder int, path string, depth int) error {
	fd, s, err := openStatus(folder, filepath.Base(path), path, unix.O_PATH|unix.O_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	looked()
	folders := s.is(unix.S_IFDIR)
	switch {
	case int(s.uid) != g.From && s.uid == uint32(g.uid):
		return nil // by one that was interrupted, or the service has made it
	case int(s.uid) != g.From, folders && s.uid == 0 && s.isOpen(path):
		g.Left++
		return nil
	}
	if folders {
		if err := g.giveAll(fd, path, depth+1); err != nil {
			return err
		}
	}
	if int(s.uid) != g.uid {
		g.Files++
	}
	return chownFile(fd, path, g.uid, g.gid)
}

// isOpen reports whether others than its owner may write a folder of root's, all of whose folders are root's too.
func (s *status) isOpen(path string) bool {
	return s.mode&0o002 != 0 || s.mode&0o020 != 0 && !isPrivate(s.gid, path)
}

func chownFile(fd int, path string, uid, gid int) error {
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	return nil
}
