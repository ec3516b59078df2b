package vfork

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// clone is clone(2) or clone3(2), by its number, of a child that makes the calls of a
// region. It has our stack, which it never touches. All signals are blocked. No address is
// one of Go's memory.
//
//go:noescape
func clone(number, first, second, third, region uintptr) (pid int)

// Start starts the child, after Finish, of the calling thread, which is locked: flags are
// clone(2)'s, namespaces for instance, and none that shares memory but CLONE_VM. The
// caller reaps the child, and owns pidfd.
//
// Without CLONE_VM the child has a copy of our memory, all but the call list's. What is
// added to the call list later is told by Finish.
func (s *CallList) Start(flags uintptr) (pid, pidfd int, err error) {
	h := s.head()
	return s.cloneChild("clone", unix.SYS_CLONE, flags|unix.CLONE_PIDFD|uintptr(unix.SIGCHLD), 0, addressOf(&h.pidfd))
}

// StartInGroup is Start of a child that is in a control group from the clone on, which
// cgroup is the folder of: CLONE_INTO_CGROUP, clone(2).
func (s *CallList) StartInGroup(flags uintptr, cgroup int) (pid, pidfd int, err error) {
	h := s.head()
	h.args = cloneArgs{flags: uint64(flags) | unix.CLONE_PIDFD | unix.CLONE_INTO_CGROUP,
		pidfd: uint64(addressOf(&h.pidfd)), exitSignal: uint64(unix.SIGCHLD), cgroup: uint64(cgroup)}
	return s.cloneChild("clone3", unix.SYS_CLONE3, addressOf(&h.args), unsafe.Sizeof(h.args), 0)
}

// addressOf is that of a part of a region.
func addressOf[T any](part *T) uintptr { return uintptr(unsafe.Pointer(part)) }

// cloneChild starts the child by a call that writes its pidfd to the head. What is added to the call list
// meanwhile is not looked at.
func (s *CallList) cloneChild(name string, number, first, second, third uintptr) (pid, pidfd int, err error) {
	// A handler of the runtime would not find a goroutine in the child, which
	// therefore begins with none, see DefaultSignals.
	all, before := ^uint64(0), uint64(0)
	if err := setSignalMask(&all, &before); err != nil {
		return 0, -1, err
	}
	pid = clone(number, first, second, third, s.baseAddress())
	if err := setSignalMask(&before, nil); err != nil {
		panic(err) // this thread would be deaf from now on
	}
	if pid < 0 {
		return 0, -1, os.NewSyscallError(name, unix.Errno(-pid))
	}
	return pid, int(s.head().pidfd), nil
}

func setSignalMask(set, before *uint64) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(before)), unsafe.Sizeof(*set), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("rt_sigprocmask", errno)
	}
	return nil
}

// DefaultSignals adds the calls that give every signal its default action and block
// none. It is the first of every call list. execve(2) keeps what we were started with
// ourselves: a shell's background job ignores SIGINT, nohup(1) SIGHUP, and some
// managers block more; a program that inherits that cannot be asked to stop.
func (s *CallList) DefaultSignals() {
	none := s.NewBuffer(32) // struct sigaction of the kernel, and a mask
	const last = 64         // _NSIG
	for sig := uintptr(1); sig <= last; sig++ {
		if sig != uintptr(unix.SIGKILL) && sig != uintptr(unix.SIGSTOP) {
			s.Do(unix.SYS_RT_SIGACTION, sig, none.Address, 0, 8)
		}
	}
	s.Do(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, none.Address, 0, 8)
}
