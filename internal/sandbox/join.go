package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"activator/internal/kernel/access"
	"activator/internal/kernel/fd"
)

// NetworkPath is where the namespace stands that network names; "" for none.
func NetworkPath(network string) string {
	if name, named := strings.CutPrefix(network, "netns:"); named {
		return filepath.Join("/run/netns", name)
	}
	if filepath.IsAbs(network) {
		return network
	}
	return ""
}

// JoinNetwork moves the calling thread, which must be locked, into the network
// namespace that network names ("netns:NAME" of ip-netns(8), or a path), so that
// a child is born there. leave brings the thread back. For "none", "host" and ""
// both do nothing.
func JoinNetwork(network string) (leave func() error, err error) {
	stay := func() error { return nil }
	path := NetworkPath(network)
	if path == "" {
		return stay, nil
	}
	home, err := netns.Get()
	if err != nil {
		return stay, NewError("network", "/proc/self/ns/net", err)
	}
	target, err := openNetwork(path)
	if err != nil {
		_ = home.Close()
		return stay, err
	}
	defer func() { _ = target.Close() }()
	if err := netns.Set(target); err != nil {
		_ = home.Close()
		return stay, joinError(path, os.NewSyscallError("setns", err))
	}
	return func() error {
		defer func() { _ = home.Close() }()
		return os.NewSyscallError("setns", netns.Set(home))
	}, nil
}

// openNetwork opens the namespace at a path, which may lie where a service writes.
func openNetwork(path string) (netns.NsHandle, error) {
	looked, err := lookNetwork(path)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(looked) }()
	target, err := unix.Open(fd.LinkOf(looked), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, joinError(path, os.NewSyscallError("open", err))
	}
	if kind, err := unix.IoctlRetInt(target, unix.NS_GET_NSTYPE); err == nil && kind != unix.CLONE_NEWNET {
		_ = unix.Close(target)
		return -1, &StepError{Step: "network", Path: path, Errno: unix.EINVAL,
			Reason: "it is a namespace of another kind", Cure: "name one of a network, such as /proc/PID/ns/net"}
	}
	if isOurs(netns.NsHandle(target)) {
		_ = unix.Close(target)
		return -1, &StepError{Step: "network", Path: path, Errno: unix.EINVAL, Reason: "it is the network that the activator is in",
			Cure: "write network = \"host\" if the service shall be in it, too"}
	}
	return netns.NsHandle(target), nil
}

// isOurs reports whether a namespace is that of the calling thread.
func isOurs(target netns.NsHandle) bool {
	home, err := netns.Get()
	if err != nil {
		return false
	}
	defer func() { _ = home.Close() }()
	return home.Equal(target)
}

// lookNetwork looks at it before it is opened: a FIFO would hold up this thread, and with it
// every start of every service. The caller closes the descriptor.
func lookNetwork(path string) (looked int, err error) {
	place, err := fd.WalkTo(path)
	if err != nil {
		return -1, joinError(path, err)
	}
	defer place.Close()
	if looked, err = place.OpenPath(); err != nil {
		return -1, joinError(path, err)
	}
	var kind unix.Statfs_t
	if err = unix.Fstatfs(looked, &kind); err != nil {
		err = os.NewSyscallError("statfs", err)
	} else if kind.Type != unix.NSFS_MAGIC {
		err = unix.EINVAL
	}
	if err != nil {
		_ = unix.Close(looked)
		return -1, joinError(path, err)
	}
	return looked, nil
}

// ExamineNetwork says why [Join] would be refused, as far as that is certain.
func ExamineNetwork(network string) error {
	path := NetworkPath(network)
	if path == "" {
		return nil
	}
	target, err := openNetwork(path)
	if err != nil {
		return err
	}
	_ = target.Close()
	if !access.HoldsCapability(unix.CAP_SYS_ADMIN) {
		return joinError(path, unix.EPERM)
	}
	return nil
}

func joinError(path string, err error) error {
	refusal := NewError("network", path, err)
	switch {
	case refusal.Errno == unix.ELOOP && refusal.Cure != "": // by a link that is not followed
	case errors.Is(err, os.ErrNotExist):
		refusal.Reason, refusal.Cure = "no such network namespace", "make it with: ip netns add "+filepath.Base(path)
	case errors.Is(err, os.ErrPermission):
		refusal.Reason = "joining a network namespace takes root (CAP_SYS_ADMIN over it and over ourselves)"
		refusal.Cure = "run the activator as root, or use network = \"none\""
		if os.Geteuid() == 0 {
			refusal.Reason = "we may not join it: it is another user namespace's, or a process's that we may not look into"
			refusal.Cure = "make one with ip netns add, or run the activator outside of the container"
		}
	default:
		refusal.Reason, refusal.Cure = "", "is it a network namespace?"
	}
	return refusal
}
