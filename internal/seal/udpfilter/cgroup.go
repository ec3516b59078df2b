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

// groupPrefix begins the name of every cgroup we make; our pid and a number
// follow, for an administrator that finds one.
const groupPrefix = "activator-udp-"

// ownGroupFile tells where we are, cgroups(7).
const ownGroupFile = "/proc/self/cgroup"

// hierarchy is the cgroup v2 file system, mounted for us alone: no other process sees
// it, so it does not matter where the host has mounted its own, how many times,
// read-only or at all (a mount of cgroup2 begins at the root of the cgroup
// namespace, as the path in /proc/self/cgroup does).
type hierarchy struct {
	root *os.File
	made atomic.Uint64 // groups, so far
}

func openHierarchy() (*hierarchy, error) {
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, newStepError(stepMount, os.NewSyscallError("fsopen cgroup2", err))
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, newStepError(stepMount, os.NewSyscallError("fsconfig cgroup2", err))
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, newStepError(stepMount, os.NewSyscallError("fsmount cgroup2", err))
	}
	return &hierarchy{root: os.NewFile(uintptr(root), "cgroup2")}, nil
}

func (h *hierarchy) close() { _ = h.root.Close() }

// openOwnGroup opens the directory of the cgroup we are in. It is asked for each time:
// the manager of this machine may move us.
func (h *hierarchy) openOwnGroup() (*os.File, error) {
	text, err := os.ReadFile(ownGroupFile)
	if err != nil {
		return nil, newStepError(stepGroup, err)
	}
	path, err := ownGroup(string(text))
	if err != nil {
		return nil, newStepError(stepGroup, err)
	}
	fd, err := openDirectory(h.root, path)
	if err != nil {
		return nil, newStepError(stepGroup, &os.PathError{Op: "open", Path: path, Err: err})
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

// group is a cgroup below our own that exists while sockets are made in it. Its
// lock (flock(2)) tells others that it is in use: it ends with us, however we end.
type group struct {
	parent, dir *os.File
	name        string
}

// errRace says that another process took a new group for a stale one.
var errRace = errors.New("removed by somebody else")

func (h *hierarchy) makeGroup() (*group, error) {
	parent, err := h.openOwnGroup()
	if err != nil {
		return nil, err
	}
	for range 8 {
		r := &group{parent: parent, name: groupPrefix + strconv.Itoa(os.Getpid()) + "-" + strconv.FormatUint(h.made.Add(1), 10)}
		if err = r.makeDirectory(); err == nil {
			return r, nil
		}
		if !errors.Is(err, unix.EEXIST) && err != errRace {
			break
		}
	}
	_ = parent.Close()
	return nil, newStepError(stepNewGroup, err)
}

func (r *group) makeDirectory() error {
	_, err := withFD(r.parent, func(fd int) (int, error) { return 0, unix.Mkdirat(fd, r.name, 0o700) })
	if err != nil {
		return &os.PathError{Op: "mkdir", Path: r.name, Err: err}
	}
	fd, err := openDirectory(r.parent, r.name)
	if err != nil {
		return errRace
	}
	r.dir = os.NewFile(uintptr(fd), r.name)
	if !lockDirectory(r.dir) || !r.isCurrent() {
		_ = r.dir.Close()
		return errRace
	}
	return nil
}

// isCurrent reports whether the name still leads to the directory that we opened.
func (r *group) isCurrent() bool {
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
func (r *group) close() {
	_ = removeDirectory(r.parent, r.name)
	_ = r.dir.Close()
	_ = r.parent.Close()
}

// sweepGroups removes the groups that an activator left behind when it was killed. A
// child that is just ending keeps its own for the next time.
func (h *hierarchy) sweepGroups() error {
	parent, err := h.openOwnGroup()
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	names, err := parent.Readdirnames(-1)
	if err != nil {
		return newStepError(stepGroup, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, groupPrefix) {
			sweepGroup(parent, name)
		}
	}
	return nil
}

func sweepGroup(parent *os.File, name string) {
	fd, err := openDirectory(parent, name)
	if err != nil {
		return
	}
	dir := os.NewFile(uintptr(fd), name)
	defer func() { _ = dir.Close() }()
	if lockDirectory(dir) {
		_ = removeDirectory(parent, name)
	}
}

// lockDirectory takes the lock of an open directory if it is free.
func lockDirectory(dir *os.File) bool {
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
