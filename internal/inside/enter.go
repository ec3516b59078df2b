package inside

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call for the child, and what came of it. Its layout is known to
// enter_*.s.
type call struct {
	number uintptr // noCall: the end
	args   [3]uintptr
	result int // negative: an errno, and the end
}

const noCall = ^uintptr(0)

// clone starts a child that makes calls in their order up to the first that fails,
// and ends. It runs on our stack, which it never touches. Signals are blocked.
//
//go:noescape
func clone(flags uintptr, calls *call) (pid int)

// inChild has calls made in a child. It is its own process, since only one with a
// single thread may enter a user namespace, setns(2); it shares our memory, for
// the results, and our descriptors, for the sockets. We sleep meanwhile
// (CLONE_VFORK).
func inChild(calls []call) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A handler of the runtime would not find a goroutine there.
	all, before := ^uint64(0), uint64(0)
	if err := mask(&all, &before); err != nil {
		return err
	}
	pid := clone(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_FILES, &calls[0])
	runtime.KeepAlive(calls)
	if err := mask(&before, nil); err != nil {
		return err
	}
	if pid < 0 {
		return os.NewSyscallError("clone", unix.Errno(-pid))
	}
	for { // it ends without a signal: __WALL, wait(2)
		if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != unix.EINTR {
			return os.NewSyscallError("wait4", err)
		}
	}
}

func mask(set, before *uint64) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(before)), unsafe.Sizeof(*set), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigprocmask", errno)
	}
	return nil
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
	const first = 2
	all := make([]call, first, first+len(calls)+1)
	all[0] = call{number: unix.SYS_SETNS, args: [3]uintptr{uintptr(r.user), unix.CLONE_NEWUSER}}
	all[1] = call{number: unix.SYS_SETNS, args: [3]uintptr{uintptr(r.network), unix.CLONE_NEWNET}}
	all = append(append(all, calls...), call{number: noCall})
	for i := range all {
		all[i].result = notMade
	}
	if err := inChild(all); err != nil {
		return nil, err
	}
	fds := make([]int, 0, len(calls))
	for i, c := range all[:len(all)-1] {
		switch {
		case c.result < 0 && i < first:
			return nil, os.NewSyscallError("setns", unix.Errno(-c.result))
		case c.result < 0:
			closeAll(fds)
			return nil, os.NewSyscallError(name, unix.Errno(-c.result))
		case i >= first:
			fds = append(fds, c.result)
		}
	}
	return fds, nil
}

// notMade is the result of a call that the child did not come to: it was killed.
const notMade = -int(unix.EINTR)

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
