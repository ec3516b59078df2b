package cgroup

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// ownGroupFile tells where we are, cgroups(7).
const ownGroupFile = "/proc/self/cgroup"

// Hierarchy is the cgroup v2 file system, and the groups that we make in it.
type Hierarchy struct {
	root   *os.File
	prefix string
	made   atomic.Uint64 // groups, so far
}

// Mount mounts the file system for us alone: no other process sees it, so it does not matter where
// the host has mounted its own, how many times, read-only or at all (a mount of cgroup2 begins
// at the root of the cgroup namespace, as the path in /proc/self/cgroup does). It takes
// CAP_SYS_ADMIN. The name of each group begins with prefix; our pid and a number follow, for an
// administrator that finds one.
func Mount(prefix string) (*Hierarchy, error) {
	context, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen cgroup2", err)
	}
	defer func() { _ = unix.Close(context) }()
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, os.NewSyscallError("fsconfig cgroup2", err)
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount cgroup2", err)
	}
	return &Hierarchy{root: os.NewFile(uintptr(root), "cgroup2"), prefix: prefix}, nil
}

// Find opens the file system where the host has mounted it, which takes no right.
func Find(prefix string) (*Hierarchy, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup2" || m.Root != "/", false
	})
	if err != nil {
		return nil, err
	}
	if len(mounts) == 0 {
		return nil, errors.New("cgroup v2 is not mounted")
	}
	root, err := os.OpenFile(mounts[0].Mountpoint, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Hierarchy{root: root, prefix: prefix}, nil
}

// Close closes it. Its groups are closed before.
func (h *Hierarchy) Close() { _ = h.root.Close() }

// OpenOwn opens the directory of the group we are in. It is asked for each time: the manager
// of this machine may move us. The caller closes it.
func (h *Hierarchy) OpenOwn() (*os.File, error) {
	text, err := os.ReadFile(ownGroupFile)
	if err != nil {
		return nil, err
	}
	path, err := ownGroup(string(text))
	if err != nil {
		return nil, err
	}
	dir, err := openDirectory(h.root, path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return dir, nil
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
	// root; but it is mounted.
	return "", errors.New("no entry of cgroup v2 in " + ownGroupFile)
}

// Sweep removes the groups that an activator left behind when it was killed. A child that is just
// ending keeps its own for the next time.
func (h *Hierarchy) Sweep() error {
	parent, err := h.OpenOwn()
	if err != nil {
		return err
	}
	defer func() { _ = parent.Close() }()
	names, err := parent.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, h.prefix) {
			sweepGroup(parent, name)
		}
	}
	return nil
}

// openDirectory opens a directory below another one. The caller closes it.
func openDirectory(at *os.File, path string) (dir *os.File, err error) {
	err = fd.Control(at, func(at int) error {
		opened, err := fd.OpenBeneath(at, path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err == nil {
			dir = os.NewFile(uintptr(opened), path)
		}
		return err
	})
	return dir, err
}
