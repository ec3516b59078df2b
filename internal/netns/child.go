package netns

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// child is a list of system calls for a child that shares our memory, for the results, and our
// descriptors, for those that it opens. It is a process of its own, since only one with a
// single thread may enter a user namespace, setns(2).
type child struct {
	list   *vfork.CallList
	opened []vfork.Call
}

// newChild returns a child that does nothing yet. The caller closes it.
func newChild() (*child, error) {
	list, err := vfork.New()
	if err != nil {
		return nil, err
	}
	return &child{list: list}, nil
}

// addCall adds a system call. If the call fails, the child ends, and the error has its name.
func (c *child) addCall(name string, number uintptr, args ...uintptr) vfork.Call {
	c.list.ExplainNext(func(errno unix.Errno) error { return os.NewSyscallError(name, errno) })
	return c.list.Do(number, args...)
}

// addOpenCall adds a call that returns a new descriptor.
func (c *child) addOpenCall(name string, number uintptr, args ...uintptr) {
	c.opened = append(c.opened, c.addCall(name, number, args...))
}

// addOpenFile adds openat(2).
func (c *child) addOpenFile(path string, flags int) {
	c.addOpenCall("open "+path, unix.SYS_OPENAT, vfork.WorkingDirectory, c.list.AddText(path), uintptr(flags|unix.O_CLOEXEC))
}

// addSocket adds socket(2), close-on-exec; the type may have SOCK_NONBLOCK.
func (c *child) addSocket(k spec.Kind) {
	c.addOpenCall("socket", unix.SYS_SOCKET, uintptr(k.Family), uintptr(k.Type|unix.SOCK_CLOEXEC), uintptr(k.Protocol))
}

// errKilled is of a child that did not get to the end of its list.
var errKilled = errors.New("a child that makes sockets was killed")

// runCalls starts the child and returns the descriptors that it opened, in their order, all or
// none. The caller closes them. flags are further flags of clone(2). With CLONE_VFORK we sleep
// meanwhile, which is the shortest way for a child that takes some microseconds.
func (c *child) runCalls(flags uintptr) ([]int, error) {
	return c.startAndWait(func() (int, int, error) { return c.list.Start(shared | flags) })
}

// runInGroup is runCalls in a control group.
func (c *child) runInGroup(cgroup int) ([]int, error) {
	return c.startAndWait(func() (int, int, error) { return c.list.StartInGroup(shared, cgroup) })
}

const shared = unix.CLONE_VM | unix.CLONE_FILES

func (c *child) startAndWait(start func() (pid, pidfd int, err error)) ([]int, error) {
	if err := c.list.Finish(); err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, pidfd, err := start()
	if err != nil {
		return nil, err
	}
	_ = unix.Close(pidfd)
	if _, _, err := fd.ReapChild(pid); err != nil {
		return nil, err
	}
	return c.collectResults()
}

func (c *child) collectResults() ([]int, error) {
	fds := make([]int, 0, len(c.opened))
	for _, call := range c.opened {
		if fd := call.Result(); fd >= 0 {
			fds = append(fds, fd)
		}
	}
	err := c.list.Failure()
	if err == nil && len(fds) < len(c.opened) {
		err = errKilled
	}
	if err != nil {
		closeAll(fds)
		return nil, err
	}
	return fds, nil
}

// mostSockets is how many sockets one child makes.
const mostSockets = 8192

// MakeSocketsInGroup makes a socket of each kind in a control group (v2): close-on-exec, all or
// none. cgroup is the group's folder, lent for the call. The caller closes the sockets. A socket
// belongs to the group for good, also when the folder is gone.
func MakeSocketsInGroup(cgroup int, kinds []spec.Kind) ([]int, error) {
	made := make([]int, 0, len(kinds))
	for len(kinds) > 0 {
		some := kinds[:min(len(kinds), mostSockets)]
		kinds = kinds[len(some):]
		fds, err := makeSocketsInGroup(cgroup, some)
		if err != nil {
			closeAll(made)
			return nil, err
		}
		made = append(made, fds...)
	}
	return made, nil
}

func makeSocketsInGroup(cgroup int, kinds []spec.Kind) ([]int, error) {
	c, err := newChild()
	if err != nil {
		return nil, err
	}
	defer c.list.Close()
	for _, k := range kinds {
		c.addSocket(k)
	}
	return c.runInGroup(cgroup)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
