package udpfilter

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// roomPrefix begins the name of every cgroup we make; our pid and a number
// follow, for an administrator that finds one.
const roomPrefix = "activator-udp-"

// ownGroupFile tells where we are, cgroups(7).
const ownGroupFile = "/proc/self/cgroup"

// hierarchy is the cgroup v2 file system, mounted for us alone: no other process sees
// it, so it does not matter where the host has mounted its own, how many times,
// read-only or at all (a mount of cgroup2 begins at the root of the cgroup
// namespace, as the path in /proc/self/cgroup does).
type hierarchy struct {
	root  *os.File
	rooms atomic.Uint64 // made so far
}

func openHierarchy() (*hierarchy, error) {
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, failed(stepMount, os.NewSyscallError("fsopen cgroup2", err))
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, failed(stepMount, os.NewSyscallError("fsconfig cgroup2", err))
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, failed(stepMount, os.NewSyscallError("fsmount cgroup2", err))
	}
	return &hierarchy{root: os.NewFile(uintptr(root), "cgroup2")}, nil
}

func (h *hierarchy) close() { _ = h.root.Close() }

// own opens the directory of the cgroup we are in. It is asked for each time:
// the manager of this machine may move us.
func (h *hierarchy) own() (*os.File, error) {
	text, err := os.ReadFile(ownGroupFile)
	if err != nil {
		return nil, failed(stepGroup, err)
	}
	path, err := ownGroup(string(text))
	if err != nil {
		return nil, failed(stepGroup, err)
	}
	fd, err := openDirectory(h.root, path)
	if err != nil {
		return nil, failed(stepGroup, &os.PathError{Op: "open", Path: path, Err: err})
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ownGroup returns the path of a process's cgroup v2, relative to the root of the
// cgroup namespace, from the text of /proc/PID/cgroup: "." is the root.
func ownGroup(text string) (string, error) {
	for line := range strings.Lines(text) {
		path, found := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/")
		switch {
		case !found:
			continue
		case path == "":
			return ".", nil
		case strings.HasSuffix(path, " (deleted)"):
			return "", errors.New("/" + path + ": nothing can be made in it any more")
		case path == ".." || strings.HasPrefix(path, "../"):
			return "", errors.New("/" + path + " is outside of our cgroup namespace")
		}
		return path, nil
	}
	// No entry as long as cgroup2 was never mounted, and then every process is in the
	// root; but we have just mounted it.
	return "", errors.New("no entry of cgroup v2 in " + ownGroupFile)
}

func openDirectory(at *os.File, path string) (int, error) {
	return withFD(at, func(at int) (int, error) { return fd.OpenBeneath(at, path, unix.O_RDONLY|unix.O_DIRECTORY) })
}

// room is a cgroup below our own that exists while sockets are made in it. Its
// lock (flock(2)) tells others that it is in use: it ends with us, however we end.
type room struct {
	parent, dir *os.File
	name        string
}

// errRace says that another process took a new room for a stale one.
var errRace = errors.New("removed by somebody else")

func (h *hierarchy) room() (*room, error) {
	parent, err := h.own()
	if err != nil {
		return nil, err
	}
	for range 8 {
		r := &room{parent: parent, name: roomPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(h.rooms.Add(1), 10)}
		if err = r.make(); err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EEXIST) && err != errRace {
			break
		}
	}
	_ = parent.Close()
	return nil, failed(stepRoom, err)
}

func (r *room) make() error {
	_, err := withFD(r.parent, func(fd int) (int, error) { return 0, unix.Mkdirat(fd, r.name, 0o700) })
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: r.name, Err: err}
	}
	fd, err := openDirectory(r.parent, r.name)
	if err != nil {
		return errRace
	}
	r.dir = os.NewFile(uintptr(fd), r.name)
	if !lock(r.dir) || !r.stands() {
		_ = r.dir.Close()
		return errRace
	}
	return nil
}

// stands reports whether the name still leads to the directory that we opened.
func (r *room) stands() bool {
	opened, err := r.dir.Stat()
	if err != nil {
		return false
	}
	fd, err := openDirectory(r.parent, r.name)
	if err != nil {
		return false
	}
	again := os.NewFile(uintptr(fd), r.name)
	defer func() { _ = again.Close() }()
	found, err := again.Stat()
	return err == nil && os.SameFile(opened, found)
}

// close removes the directory; the cgroup itself lives on, out of sight, while
// sockets of it are open. One that cannot be removed is left to sweep.
func (r *room) close() {
	_ = removeDirectory(r.parent, r.name)
	_ = r.dir.Close()
	_ = r.parent.Close()
}

// sweep removes the rooms that an activator left behind when it was killed. A
// child that is just ending keeps its own for the next time.
func (h *hierarchy) sweep() error {
	parent, err := h.own()
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	names, err := parent.Readdirnames(-1)
	if err != nil {
		return failed(stepGroup, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, roomPrefix) {
			sweepRoom(parent, name)
		}
	}
	return nil
}

func sweepRoom(parent *os.File, name string) {
	fd, err := openDirectory(parent, name)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), name)
	defer func() { _ = dir.Close() }()
	if lock(dir) {
		_ = removeDirectory(parent, name)
	}
}

// lock takes the lock of an open directory if it is free.
func lock(dir *os.File) bool {
	return fd.Control(dir, func(dir int) error {
		return fd.RetryEINTR(func() error { return unix.Flock(dir, unix.LOCK_EX|unix.LOCK_NB) })
	}) == nil
}

func removeDirectory(parent *os.File, name string) error {
	return fd.Control(parent, func(parent int) error { return unix.Unlinkat(parent, name, unix.AT_REMOVEDIR) })
}

// withFD is [fd.Control] for what returns something.
func withFD(file *os.File, f func(fd int) (int, error)) (n int, err error) {
	n = -1
	err = fd.Control(file, func(fd int) (err error) {
		n, err = f(fd)
		return err
	})
	return n, err
}
