// Package sockaddr is struct sockaddr of internet and unix sockets as the kernel has it, for
// system calls that are made for every connection or datagram: nothing is converted or
// allocated.
//
//	a, err := sockaddr.Local(fd)
//	to := sockaddr.Inet(ip, port, 0)
//	err = sockaddr.Connect(fd, &to)
//
// Addresses in the text of a configuration are those of package spec.
package sockaddr

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Raw is a struct sockaddr. Two of them are the same address if they are equal.
type Raw struct {
	N uint32    // bytes of B; more where the kernel has cut it
	B [112]byte // sockaddr_un, the longest, has 110
}

// Offsets in struct sockaddr_in and sockaddr_in6, ip(7) and ipv6(7).
const (
	portAt  = 2
	addr4At = 4
	addr6At = 8
	scopeAt = 24
)

// PathAt is the offset of the path in struct sockaddr_un, unix(7): a socket without a name has
// no more.
const PathAt = 2

// Loopback is the interface index of lo in a new network namespace: always the
// first. LOOPBACK_IFINDEX, include/net/flow.h.
const Loopback = 1

// Inet is a sockaddr_in of a plain IPv4 address and a sockaddr_in6 of any
// other; link-local ones get scope.
func Inet(ip netip.Addr, port uint16, scope uint32) Raw {
	var a Raw
	if ip.Is4() {
		a.N = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(a.B[:], unix.AF_INET)
		*(*[4]byte)(a.B[addr4At:]) = ip.As4()
	} else {
		a.N = unix.SizeofSockaddrInet6
		binary.NativeEndian.PutUint16(a.B[:], unix.AF_INET6)
		*(*[16]byte)(a.B[addr6At:]) = ip.As16()
		if ip.IsLinkLocalUnicast() {
			binary.NativeEndian.PutUint32(a.B[scopeAt:], scope)
		}
	}
	a.SetPort(port)
	return a
}

// AnyUnix is a sockaddr_un for which bind(2) chooses an abstract name.
func AnyUnix() Raw {
	a := Raw{N: PathAt}
	binary.NativeEndian.PutUint16(a.B[:], unix.AF_UNIX)
	return a
}

// Unix is a sockaddr_un; false where text has no room. That of an abstract name is without the
// leading NUL.
func Unix(text []byte, abstract bool) (Raw, bool) {
	a := AnyUnix()
	at := PathAt
	if abstract {
		at++
	}
	if at+len(text) > unix.SizeofSockaddrUnix {
		return a, false
	}
	a.N = uint32(at + copy(a.B[at:], text))
	if !abstract && a.N < unix.SizeofSockaddrUnix {
		a.N++ // the final NUL
	}
	return a, true
}

// Bytes is what the kernel reads.
func (a *Raw) Bytes() []byte { return a.B[:min(int(a.N), len(a.B))] }

// Family is AF_UNSPEC where there is none.
func (a *Raw) Family() int {
	if a.N < 2 {
		return unix.AF_UNSPEC
	}
	return int(binary.NativeEndian.Uint16(a.B[:]))
}

// Port is that of an internet socket.
func (a *Raw) Port() uint16 { return binary.BigEndian.Uint16(a.B[portAt:]) }

// SetPort changes it.
func (a *Raw) SetPort(port uint16) { binary.BigEndian.PutUint16(a.B[portAt:], port) }

// Scope is that of an IPv6 socket.
func (a *Raw) Scope() uint32 { return binary.NativeEndian.Uint32(a.B[scopeAt:]) }

// IP is the address of an internet socket, 4in6 as it is, without zone. It is not valid for
// others.
func (a *Raw) IP() netip.Addr {
	switch {
	case a.Family() == unix.AF_INET && a.N >= unix.SizeofSockaddrInet4:
		return netip.AddrFrom4([4]byte(a.B[addr4At:]))
	case a.Family() == unix.AF_INET6 && a.N >= unix.SizeofSockaddrInet6:
		return netip.AddrFrom16([16]byte(a.B[addr6At:]))
	}
	return netip.Addr{}
}

// Path is the text of a unix socket's address and whether the name is abstract
// (then without its leading NUL). Empty and not abstract: unnamed.
func (a *Raw) Path() (text []byte, abstract bool) {
	text = a.Bytes()
	if len(text) <= PathAt {
		return nil, false
	}
	text = text[PathAt:]
	if text[0] == 0 {
		return text[1:], true
	}
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return text, false
}

func (a *Raw) String() string {
	if ip := a.IP(); ip.IsValid() {
		return netip.AddrPortFrom(ip, a.Port()).String()
	}
	if a.Family() != unix.AF_UNIX {
		return fmt.Sprintf("family %d", a.Family())
	}
	text, abstract := a.Path()
	switch {
	case abstract:
		return "@" + string(text)
	case len(text) == 0:
		return "(unnamed)"
	}
	return string(text)
}

// Local is getsockname(2).
func Local(fd int) (Raw, error) { return read(unix.SYS_GETSOCKNAME, fd) }

// Peer is getpeername(2).
func Peer(fd int) (Raw, error) { return read(unix.SYS_GETPEERNAME, fd) }

// Bind is bind(2), without telling the scheduler: of a name that is no path it returns at once.
func Bind(fd int, a *Raw) error { return write(unix.SYS_BIND, fd, a) }

// Connect is connect(2) of a socket that does not block, or of a datagram socket. The scheduler
// is not told: a connect of TCP through lo takes its 20 us in the kernel, after
// which the processor would be another goroutine's.
func Connect(fd int, a *Raw) error { return write(unix.SYS_CONNECT, fd, a) }

func read(call uintptr, fd int) (Raw, error) {
	a := Raw{}
	a.N = uint32(len(a.B))
	_, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&a.B)), uintptr(unsafe.Pointer(&a.N)))
	if e != 0 {
		return Raw{}, e
	}
	return a, nil
}

func write(call uintptr, fd int, a *Raw) error {
	_, _, e := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&a.B)), uintptr(a.N))
	if e != 0 {
		return e
	}
	return nil
}
