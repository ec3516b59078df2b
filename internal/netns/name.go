package netns

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketAddress is a struct sockaddr_in or sockaddr_in6, ip(7), ipv6(7).
type socketAddress [unix.SizeofSockaddrInet6]byte

// bindOrConnect is bind(2) or connect(2) of a socket that does not block; number says which. The
// scheduler is not told: a connect through lo takes 20 us in the kernel, and then the processor
// would belong to another goroutine.
func (b *socketAddress) bindOrConnect(number uintptr, fd int, a netip.AddrPort) unix.Errno {
	n := b.setAddrPort(a)
	_, _, e := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(b)), n)
	return e
}

// setAddrPort writes a and returns its size.
func (b *socketAddress) setAddrPort(a netip.AddrPort) uintptr {
	*b = socketAddress{}
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if a.Addr().Is4() {
		binary.NativeEndian.PutUint16(b[:], unix.AF_INET)
		ip := a.Addr().As4()
		copy(b[4:], ip[:])
		return unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(b[:], unix.AF_INET6)
	ip := a.Addr().As16()
	copy(b[8:], ip[:])
	if a.Addr().IsLinkLocalUnicast() {
		binary.NativeEndian.PutUint32(b[24:], loopback) // the only one there is
	}
	return unix.SizeofSockaddrInet6
}

// readSocketError reads SO_ERROR, socket(7).
func readSocketError(fd int) unix.Errno {
	var value int32
	size := uint32(unsafe.Sizeof(value))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return e
	}
	return unix.Errno(value)
}
