package netns

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// name is a struct sockaddr_in or sockaddr_in6, ip(7), ipv6(7).
type name [unix.SizeofSockaddrInet6]byte

// call is bind(2) or connect(2) of a socket that does not block, by their number. The
// scheduler is not told: a connect through lo takes its 20 us in the kernel, after
// which the processor would be another goroutine's.
func (b *name) call(number uintptr, fd int, a netip.AddrPort) unix.Errno {
	n := b.fill(a)
	_, _, e := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(b)), n)
	return e
}

// fill writes a and returns its size.
func (b *name) fill(a netip.AddrPort) uintptr {
	*b = name{}
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

// pending is SO_ERROR, socket(7).
func pending(fd int) unix.Errno {
	var value int32
	size := uint32(unsafe.Sizeof(value))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ERROR,
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return e
	}
	return unix.Errno(value)
}
