package listen

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// socketState is what a socket was like before any service had it.
type socketState struct {
	name    string // struct sockaddr it is bound to, as getsockname(2) gives it
	options sockopt.State
	pipe    int // bytes; of a FIFO
	access  fifoAccess
}

func stateOf(file *os.File, password sockopt.Password) (st socketState) {
	_ = control(file, func(fd int) error {
		st.name, st.options = rawName(fd), sockopt.RecordState(fd)
		st.options.Password = password
		return nil
	})
	return st
}

// rawName returns the bytes of the address fd is bound to, "" for none.
func rawName(fd int) string {
	var buf [unix.SizeofSockaddrAny]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return ""
	}
	return string(buf[:min(int(size), len(buf))])
}
