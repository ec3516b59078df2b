package udprelay

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// echoOne is recvfrom(2) and sendto(2), without what Go's wrappers allocate.
func echoOne(fd int, b []byte, a *sockaddr.Raw) (int, error) {
	a.N = uint32(len(a.B))
	n, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(&a.B)), uintptr(unsafe.Pointer(&a.N)))
	if e != 0 {
		return 0, e
	}
	_, _, e = unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), n, 0,
		uintptr(unsafe.Pointer(&a.B)), uintptr(a.N))
	return int(n), errnoOrNil(e)
}
