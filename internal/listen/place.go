package listen

import (
	"context"
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

// inode says which file it is. It cannot be another one's as long as the socket
// bound to it, or the open FIFO, is ours: that keeps the inode alive.
type inode struct {
	dev, ino uint64
}

// place is where a node stands: its folder, which is held open while something is done
// there, and its name. A folder that is swapped for another meanwhile makes no
// difference. The opener closes it; no folder is held by a socket that only listens.
type place struct {
	*fd.Place
	path string // as it was asked for
}

func openPlace(path string) (place, error) {
	parent, err := fd.WalkToParent(path)
	return place{parent, path}, err
}

// makePlace makes the folders above path that are missing. They stay when the
// socket goes.
func makePlace(path string, o *spec.Options) (place, error) {
	mode := o.DirectoryMode.Perm()
	if mode == 0 {
		mode = 0o755
	}
	parent, err := fd.MakeParents(path, uint32(mode))
	return place{parent, path}, err
}

// reserveName is the second hard link of a node, in the same folder. When
// the node is deleted, a link back gives the very same inode: the socket
// a running service holds, and the clients in its queue, are reached again.
func (s place) reserveName() string { return spec.ReservePath(s.Name) }

// pathOf is the path of a name in the folder, for messages.
func (s place) pathOf(name string) string { return filepath.Join(filepath.Dir(s.path), name) }

func (s place) inodeOf(name string) (inode, error) {
	st, err := s.Stat(name)
	if err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: s.pathOf(name), Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

// hasInode reports whether the inode stands at a name.
func (s place) hasInode(name string, id inode) bool {
	got, err := s.inodeOf(name)
	return err == nil && got == id
}

func (s place) linkName(from, to string) error {
	return unix.Linkat(s.FD(), from, s.FD(), to, 0)
}

func (s place) removeName(name string) error { return unix.Unlinkat(s.FD(), name, 0) }

// removeInode takes a name away if the inode stands there.
func (s place) removeInode(name string, id inode) {
	if s.hasInode(name, id) {
		_ = s.removeName(name)
	}
}

// setUpNode gives the node that was just born, of a socket, its owner and then its
// mode, through a descriptor that stays on it whatever happens to the name.
func (s place) setUpNode(socket int, mode fs.FileMode, who owner) (inode, error) {
	node, err := s.Open(unix.O_PATH, 0)
	if err != nil {
		return inode{}, &fs.PathError{Op: "open", Path: s.path, Err: err}
	}
	defer unix.Close(node)
	var st unix.Stat_t
	if err := unix.Fstat(node, &st); err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: s.path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK || s.isStrange(&st) {
		return inode{}, &OccupiedError{Path: s.path, What: s.describeFile(s.Name, &st)}
	}
	id := inode{st.Dev, st.Ino}
	differs := fs.FileMode(st.Mode).Perm() != mode
	if (who.isGiven() || differs) && s.Movable() && !isBoundTo(socket, id.ino) {
		return inode{}, &OccupiedError{Path: s.path, What: "another socket than the one just bound, or one of which a kernel without CONFIG_UNIX_DIAG does not tell,"}
	}
	if who.isGiven() {
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

// isStrange reports whether a node that was just born is not ours: where others may write
// they can put another one in its place, or a second name of one, to have us change its
// owner and mode. That tells early and in plain words, but a second name may be gone by now. So before
// anything is changed it must also be the socket that we have bound, or a FIFO that was not there before.
func (s place) isStrange(st *unix.Stat_t) bool {
	return s.Foreign() && (int(st.Uid) != os.Geteuid() || st.Nlink > 1)
}

// How long a folder's lock is waited for, and for how long none is any more after that.
const (
	lockTimeout = 2 * time.Second
	lockPause   = time.Minute
)

// lockPausedUntil is until when no lock is waited for.
var lockPausedUntil atomic.Pointer[time.Time]

// lockFolder keeps other activators from clearing and binding in the folder
// at the same time, and returns the unlock. Any user that may read the folder
// can hold such a lock, so we wait for two seconds at most and then go on, and for a minute
// wait for no other one: all nodes of all services are not held up longer than one. What
// is lost is the order between two that start at once. flock(2). warn, which may be nil, is told.
func (s place) lockFolder(warn func(text string)) (unlock func()) {
	folder, err := s.Folder.Open(".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return func() {}
	}
	taken := false
	try := func() bool {
		taken = unix.Flock(folder, unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK // ours, or a file system without
		return taken
	}
	if until := lockPausedUntil.Load(); !try() && (until == nil || time.Now().After(*until)) {
		retryFor(context.Background(), lockTimeout, try)
		next := time.Now().Add(lockPause)
		if !taken && lockPausedUntil.CompareAndSwap(until, &next) && warn != nil {
			warn(fmt.Sprintf("waited %v for the lock of %s, which another process holds (flock(2), lslocks(8)): sockets are bound without it, and no such lock is waited for, for %v",
				lockTimeout, s.Folder.Path(), lockPause))
		}
	}
	return func() { _ = unix.Close(folder) }
}

// removeExactly removes a name if it is id, and nothing else also when
// another socket is put there at this very moment: what is moved away first can
// be looked at and put back.
func (s place) removeExactly(name string, id inode) error {
	moved := spec.ReservePath(name) + "." + strconv.Itoa(unix.Gettid())
	err := unix.Renameat2(s.FD(), name, s.FD(), moved, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL {
		err = unix.Renameat(s.FD(), name, s.FD(), moved) // NFS and others cannot RENAME_NOREPLACE
	}
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: s.pathOf(name), Err: err}
	}
	if !s.hasInode(moved, id) {
		_ = s.linkName(moved, name)
		_ = s.removeName(moved)
		return &OccupiedError{Path: s.pathOf(name), What: "a socket that has just come", Live: true}
	}
	if err := s.removeName(moved); err != nil {
		return &fs.PathError{Op: "unlink", Path: s.pathOf(moved), Err: err}
	}
	return nil
}

func (s place) describeFile(name string, st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		if target, err := s.ReadLink(name); err == nil {
			return fmt.Sprintf("a symbolic link to %q", target)
		}
		return "a symbolic link"
	}
	return "something unknown"
}
