package spawn

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultSignals gives the program every signal with its default action and none
// blocked. execve(2) keeps what we were started with ourselves: a shell's
// background job ignores SIGINT, nohup(1) SIGHUP, and some managers block more;
// a program that inherits that cannot be asked to stop. Caught ones are reset by
// execve itself.
func defaultSignals() error {
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return &StageError{Step: "signals", Errno: errnoOf(err)}
	}
	const ignored, last = 1, 64 // SIG_IGN, _NSIG
	for sig := uintptr(1); sig <= last; sig++ {
		var action sigaction
		if sigactionOf(sig, nil, &action) != nil || action.handler != ignored {
			continue
		}
		if err := sigactionOf(sig, new(sigaction), nil); err != nil {
			return &StageError{Step: "signals", Errno: errnoOf(err)}
		}
	}
	return nil
}

// sigaction is the kernel's, the same on amd64 and arm64; zero is SIG_DFL.
// Package os/signal cannot undo an ignored signal that was inherited.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// sigactionOf is rt_sigaction(2): it sets what is not nil and returns in old
// what was.
func sigactionOf(sig uintptr, set, old *sigaction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(set.mask), 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
