package process

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

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
