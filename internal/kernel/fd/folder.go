package fd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// trust is what a folder's entries are worth.
type trust uint8

const (
	ours    trust = iota // only root and we may change them
	sticky               // others may add to them, but not change root's or ours
	foreign              // another user may, here or further up
)

// Folder is an open folder. Its owner closes it.
type Folder struct {
	fd     int // O_PATH
	path   string
	id     ID
	uid    uint32 // whose it is
	above  uint32 // whose the folder is that it stands in
	trust  trust
	why    string // not ours: which users may write it, and which folder
	steady bool   // no other user can put another folder at its path
}

// FD lends the descriptor, which is one of O_PATH.
func (f *Folder) FD() int { return f.fd }

// Path is where it stands, without a link.
func (f *Folder) Path() string { return f.path }

// ID says which folder it is.
func (f *Folder) ID() ID { return f.id }

// Steady reports whether only root and we can have another folder stand at its
// path: then the path can be used as well as the descriptor.
func (f *Folder) Steady() bool { return f.steady }

// Foreign reports whether another user may change what is in it.
func (f *Folder) Foreign() bool { return f.trust != ours }

// Movable reports whether another user may put another thing in the place of one of ours that stands in it.
func (f *Folder) Movable() bool { return f.trust == foreign }

// Close closes it. Twice is fine, and so is nil.
func (f *Folder) Close() {
	if f != nil && f.fd >= 0 {
		_ = unix.Close(f.fd)
		f.fd = -1
	}
}

func openRoot() (*Folder, error) {
	fd, s, err := openStatus(unix.AT_FDCWD, "/", "/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	f := &Folder{fd: fd, path: "/", id: s.id, uid: s.uid, above: s.uid, steady: true}
	f.trust, f.why = judgeTrust(ours, "", &s, "/")
	return f, nil
}

// makeChild is the folder at name, of which fd is a descriptor that it takes.
func (f *Folder) makeChild(name string, fd int, s *status) *Folder {
	c := &Folder{fd: fd, path: filepath.Join(f.path, name), id: s.id, uid: s.uid, above: f.uid}
	c.steady = f.steady && (f.trust == ours || f.trust == sticky && trusted(s.uid))
	c.trust, c.why = judgeTrust(f.trust, f.why, s, c.path)
	return c
}

// judgeTrust says which users may change what is in a folder that stands in one that is above.
func judgeTrust(above trust, why string, s *status, path string) (trust, string) {
	services := noteClaimed(s.id, path)
	switch {
	case above == foreign:
		return foreign, why
	case services:
		return foreign, path + ", which a service may write"
	case !trusted(s.uid):
		return foreign, fmt.Sprintf("%s, which belongs to uid %d", path, s.uid)
	}
	switch {
	case s.mode&0o002 != 0:
		why = path + ", which everybody may write"
	case s.mode&0o020 != 0 && !isPrivate(s.gid, path):
		// With an access control list these bits are what it grants at the most, acl(5).
		why = fmt.Sprintf("%s, which group %d may write", path, s.gid)
	default:
		return ours, ""
	}
	if s.mode&unix.S_ISVTX != 0 {
		return sticky, why
	}
	return foreign, why
}

// trusted reports whether a user may say where our paths lead.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// Stat is what stands at a name, a link itself.
func (f *Folder) Stat(name string) (stat unix.Stat_t, err error) {
	err = RetryEINTR(func() error { return unix.Fstatat(f.fd, name, &stat, unix.AT_SYMLINK_NOFOLLOW) })
	return stat, err
}

// ReadLink is where the link at a name leads.
func (f *Folder) ReadLink(name string) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(f.fd, name, target)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: filepath.Join(f.path, name), Err: err}
	}
	return string(target[:n]), nil
}

// List returns the names of what stands in it, in no order.
func (f *Folder) List() ([]string, error) {
	names, err := listFolder(f.fd)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.path, Err: err}
	}
	return names, nil
}

// listFolder is listNames for a descriptor that may be one of O_PATH.
func listFolder(folder int) ([]string, error) {
	fd, err := openAt(folder, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(fd) }()
	return listNames(fd)
}

// Open opens what stands at a name, and no link. The caller closes the descriptor.
func (f *Folder) Open(name string, flags int, mode uint32) (int, error) {
	return openAt(f.fd, name, flags|unix.O_NOFOLLOW, mode)
}

// folderMade is for a test: it is called between the making of a folder and the look at it.
var folderMade = func() {}

// makeFolder makes the folder at name, unless something stands there. With exact it has its mode
// whatever the umask is.
func (f *Folder) makeFolder(name string, mode uint32, exact bool) error {
	path, began := filepath.Join(f.path, name), CoarseTime()
	err := RetryEINTR(func() error { return unix.Mkdirat(f.fd, name, mode) })
	if err != nil && err != unix.EEXIST {
		return &os.PathError{Op: "mkdir", Path: path, Err: err}
	}
	if err != nil || !exact {
		return nil
	}
	folderMade()
	fd, s, err := openStatus(f.fd, name, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if s.mode&0o777 == mode || !f.isJustMade(fd, &s, began) {
		return nil
	}
	if err := unix.Chmod(LinkOf(fd), mode); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}

// isJustMade reports whether a folder in this one is the folder that we have made since began. Where another user may
// move folders it can be any other of ours: such a folder is older, or not empty.
func (f *Folder) isJustMade(fd int, s *status, began unix.Timespec) bool {
	if int(s.uid) != os.Geteuid() {
		return false
	}
	if !f.Movable() {
		return true
	}
	names, err := listFolder(fd)
	return err == nil && len(names) == 0 && IsBornSince(fd, began)
}

// LinkOf is a path of what a descriptor is of, for system calls that take no descriptor of
// O_PATH. It needs /proc.
func LinkOf(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// openAt is openat(2), which leaves no descriptor to a child.
func openAt(folder int, name string, flags int, mode uint32) (fd int, err error) {
	err = RetryEINTR(func() (err error) {
		fd, err = unix.Openat(folder, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// listNames reads the names in a folder.
func listNames(fd int) (names []string, err error) {
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return nil, err
	}
	buffer := make([]byte, 8<<10)
	for {
		var n int
		err := RetryEINTR(func() (err error) {
			n, err = unix.ReadDirent(fd, buffer)
			return err
		})
		if err != nil || n <= 0 {
			return names, err
		}
		_, _, names = unix.ParseDirent(buffer[:n], -1, names)
	}
}
