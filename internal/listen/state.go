package listen

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// state is what a socket was like before any service had it.
type state struct {
	name   string // struct sockaddr it is bound to, as getsockname(2) gives it
	device int    // SO_BINDTOIFINDEX, 0: none
}

func stateOf(file *os.File) (st state) {
	_ = control(file, func(fd int) error {
		st.name = rawName(fd)
		st.device, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
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
