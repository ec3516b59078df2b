package netns

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/script"
)

// call is a system call that returns a descriptor.
type call struct {
	number uintptr
	args   [3]uintptr
}

// inChild has a script made in a child. It is its own process, since only one with a
// single thread may enter a user namespace, setns(2); it shares our memory, for
// the results, and our descriptors, for the sockets. We sleep meanwhile
// (CLONE_VFORK).
func inChild(list *script.Script) error {
	if err := list.Finish(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, pidfd, err := list.Start(unix.CLONE_VM | unix.CLONE_VFORK | unix.CLONE_FILES)
	if err != nil {
		return err
	}
	_ = unix.Close(pidfd)
	_, _, err = fd.Reap(pid)
	return err
}

// kind is what socket(2) is asked for.
type kind struct{ domain, kind, protocol int }

// sockets makes a socket of each kind inside, close-on-exec and non-blocking, all
// or none. The caller closes them.
func (r *Room) sockets(kinds ...kind) ([]int, error) {
	calls := make([]call, len(kinds))
	for i, k := range kinds {
		calls[i] = call{number: unix.SYS_SOCKET, args: [3]uintptr{uintptr(k.domain),
			uintptr(k.kind | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK), uintptr(k.protocol)}}
	}
	return r.make("socket", calls...)
}

// make has calls made inside, which all return descriptors, and returns these, all
// or none. The caller closes them.
func (r *Room) make(name string, calls ...call) ([]int, error) {
	list, err := script.New()
	if err != nil {
		return nil, err
	}
	defer list.Close()
	enter := []script.Call{
		list.Do(unix.SYS_SETNS, uintptr(r.user), unix.CLONE_NEWUSER),
		list.Do(unix.SYS_SETNS, uintptr(r.network), unix.CLONE_NEWNET),
	}
	made := make([]script.Call, len(calls))
	for i, c := range calls {
		made[i] = list.Do(c.number, c.args[:]...)
	}
	if err := inChild(list); err != nil {
		return nil, err
	}
	for _, c := range enter {
		if n := c.Result(); n < 0 {
			return nil, os.NewSyscallError("setns", unix.Errno(-n))
		}
	}
	fds := make([]int, 0, len(calls))
	for _, c := range made {
		n := c.Result()
		if n < 0 {
			closeAll(fds)
			return nil, os.NewSyscallError(name, unix.Errno(-n))
		}
		fds = append(fds, n)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
