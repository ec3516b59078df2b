package listen

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// spot is where a node stands: its folder, which is held open while something is done
// there, and its name. A folder that somebody swaps for another meanwhile makes no
// difference. Whoever opens it closes it; no folder is held by a socket that only listens.
type spot struct {
	*fd.Place
	path string // as it was asked for
}

func openSpot(path string) (spot, error) {
	place, err := fd.WalkToParent(path)
	return spot{place, path}, err
}

// makeSpot makes the folders above path that are missing. They stay when the
// socket goes.
func makeSpot(path string, o *spec.Options) (spot, error) {
	mode := o.DirectoryMode.Perm()
	if mode == 0 {
		mode = 0o755
	}
	place, err := fd.MakeParents(path, uint32(mode))
	return spot{place, path}, err
}

// spare is the second hard link of a node, in the same folder. When
// somebody deletes the node, a link back gives the very same inode: the socket
// a running service holds, and whoever waits in its queue, are reached again.
func (s spot) spare() string { return spareName(s.Name) }

func spareName(name string) string { return "." + name + ".activator" }

func sparePath(path string) string {
	return filepath.Join(filepath.Dir(path), spareName(filepath.Base(path)))
}

// at is the path of a name in the folder, for messages.
func (s spot) at(name string) string { return filepath.Join(filepath.Dir(s.path), name) }

func (s spot) id(name string) (inode, error) {
	st, err := s.Stat(name)
	if err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: s.at(name), Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

// is reports whether the inode stands at a name.
func (s spot) is(name string, id inode) bool {
	got, err := s.id(name)
	return err == nil && got == id
}

func (s spot) link(from, to string) error {
	return unix.Linkat(s.FD(), from, s.FD(), to, 0)
}

func (s spot) unlink(name string) error { return unix.Unlinkat(s.FD(), name, 0) }

// remove takes a name away if the inode stands there.
func (s spot) remove(name string, id inode) {
	if s.is(name, id) {
		_ = s.unlink(name)
	}
}

// finish gives the node that was just born, of a socket, its owner and then its
// mode, through a descriptor that stays on it whatever happens to the name.
func (s spot) finish(socket int, mode fs.FileMode, who owner) (inode, error) {
	node, err := s.Open(unix.O_PATH, 0)
	if err != nil {
		return inode{}, &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	defer unix.Close(node)
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: s.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || s.strange(&st) {
		return inode{}, &OccupiedError{Path: s.path, What: s.describe(s.Name, &st)}
	}
	id := inode{st.Dev, st.Ino}
	differs := fs.FileMode(st.Mode).Perm() != mode
	if (who.given() || differs) && s.Movable() && !isBoundTo(socket, id) {
		return inode{}, &OccupiedError{Path: s.path, What: "another socket than the one just bound, or one of which a kernel without CONFIG_UNIX_DIAG does not tell,"}
	}
	if who.given() {
		if err := unix.Fchownat(node, "", who.uid, who.gid, unix.AT_EMPTY_PATH); err != nil {
			return id, &fs.PathError{Op: "chown", Path: s.path, Err: err}
		}
	}
	if differs {
		// fchmod(2) refuses O_PATH descriptors, the link in /proc does not.
		if err := unix.Chmod(fd.LinkOf(node), uint32(mode)); err != nil {
			return id, &fs.PathError{Op: "chmod", Path: s.path, Err: err}
		}
	}
	return id, nil
}

// strange reports whether a node that was just born is not ours: where others may write
// they can put another one in its place, or a second name of one, to have us change its
// owner and mode.
func (s spot) strange(st *unix.Stat_t) bool {
	return s.Foreign() && (int(st.Uid) != os.Geteuid() || fd.IsPlanted(uint64(st.Nlink), st.Uid))
}

// How long a folder's lock is waited for, and for how long none is any more after that.
const (
	lockTimeout = 2 * time.Second
	lockPause   = time.Minute
)

// noLockUntil is until when no lock is waited for.
var noLockUntil atomic.Pointer[time.Time]

// lock keeps other activators from clearing and binding in the folder
// at the same time, and returns the unlock. Anybody who may read the folder
// can hold such a lock, so we wait for two seconds at most and then go on, and for a minute
// wait for no other one: all nodes of all services are not held up longer than one. What
// is lost is the order between two that start at once. flock(2). warn, which may be nil, is told.
func (s spot) lock(warn func(text string)) (unlock func()) {
	folder, err := s.Folder.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return func() {}
	}
	taken := false
	try := func() bool {
		taken = unix.Flock(folder, unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK // ours, or a file system without
		return taken
	}
	if until := noLockUntil.Load(); !try() && (until == nil || time.Now().After(*until)) {
		patiently(lockTimeout, try)
		next := time.Now().Add(lockPause)
		if !taken && noLockUntil.CompareAndSwap(until, &next) && warn != nil {
			warn(fmt.Sprintf("waited %v for the lock of %s, which another process holds (flock(2), lslocks(8)): sockets are bound without it, and no such lock is waited for, for %v",
				lockTimeout, s.Folder.Path(), lockPause))
		}
	}
	return func() { _ = unix.Close(folder) }
}

// removeExactly removes a name if it is id, and nothing else also when somebody
// puts another socket there at this very moment: what is moved away first can
// be looked at and put back.
func (s spot) removeExactly(name string, id inode) error {
	aside := spareName(name) + "." + strconv.Itoa(unix.Gettid())
	err := unix.Renameat2(s.FD(), name, s.FD(), aside, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL {
		err = unix.Renameat(s.FD(), name, s.FD(), aside) // NFS and others cannot RENAME_NOREPLACE
	}
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: s.at(name), Err: err}
	}
	if !s.is(aside, id) {
		_ = s.link(aside, name)
		_ = s.unlink(aside)
		return &OccupiedError{Path: s.at(name), What: "a socket that has just come", Live: true}
	}
	if err := s.unlink(aside); err != nil {
		return &fs.PathError{Op: "unlink", Path: s.at(aside), Err: err}
	}
	return nil
}
