package udprelay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// echoOne is recvfrom(2) and sendto(2), without what Go's wrappers allocate.
func echoOne(fd int, b []byte, a *rawAddr) (int, error) {
	a.n = uint32(len(a.b))
	n, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.n)))
	if e != 0 {
		return 0, e
	}
	_, _, e = unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), n, 0,
		uintptr(unsafe.Pointer(&a.b)), uintptr(a.n))
	return int(n), errnoOrNil(e)
}
