package udprelay

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawAddr is a struct sockaddr as the kernel wrote it: the key of a flow, and
// what it is bound and sent to, without a copy in between.
type rawAddr struct {
	n uint32    // bytes of b
	b [112]byte // sockaddr_un, the longest, has 110
}

// Offsets in struct sockaddr_in and sockaddr_in6, ip(7) and ipv6(7).
const (
	portAt  = 2
	addr4At = 4
	addr6At = 8
	scopeAt = 24
	pathAt  = 2 // in struct sockaddr_un, unix(7)
)

// loopback is the interface index of lo in a new network namespace: always the
// first. LOOPBACK_IFINDEX, include/net/flow.h.
const loopback = 1

func (a *rawAddr) bytes() []byte { return a.b[:min(int(a.n), len(a.b))] }

func (a *rawAddr) family() int {
	if a.n < 2 {
		return unix.AF_UNSPEC
	}
	return int(binary.NativeEndian.Uint16(a.b[:]))
}

func (a *rawAddr) port() uint16 { return binary.BigEndian.Uint16(a.b[portAt:]) }

func (a *rawAddr) setPort(port uint16) { binary.BigEndian.PutUint16(a.b[portAt:], port) }

// ip returns the address of an internet socket, 4in6 as it is, without zone.
func (a *rawAddr) ip() netip.Addr {
	switch {
	case a.family() == unix.AF_INET && a.n >= unix.SizeofSockaddrInet4:
		return netip.AddrFrom4([4]byte(a.b[addr4At:]))
	case a.family() == unix.AF_INET6 && a.n >= unix.SizeofSockaddrInet6:
		return netip.AddrFrom16([16]byte(a.b[addr6At:]))
	}
	return netip.Addr{}
}

// path is the text of a unix socket's address and whether the name is abstract
// (then without its leading NUL). Empty and not abstract: unnamed.
func (a *rawAddr) path() (text []byte, abstract bool) {
	text = a.bytes()
	if len(text) <= pathAt {
		return nil, false
	}
	text = text[pathAt:]
	if text[0] == 0 {
		return text[1:], true
	}
	if end := bytes.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return text, false
}

func (a *rawAddr) String() string {
	if ip := a.ip(); ip.IsValid() {
		return netip.AddrPortFrom(ip, a.port()).String()
	}
	if a.family() != unix.AF_UNIX {
		return fmt.Sprintf("family %d", a.family())
	}
	text, abstract := a.path()
	switch {
	case abstract:
		return "@" + string(text)
	case len(text) == 0:
		return "(unnamed)"
	}
	return string(text)
}

// inetAddr is a sockaddr_in of a plain IPv4 address and a sockaddr_in6 of any
// other; link-local ones get scope.
func inetAddr(ip netip.Addr, port uint16, scope uint32) rawAddr {
	var a rawAddr
	if ip.Is4() {
		a.n = unix.SizeofSockaddrInet4
		binary.NativeEndian.PutUint16(a.b[:], unix.AF_INET)
		*(*[4]byte)(a.b[addr4At:]) = ip.As4()
	} else {
		a.n = unix.SizeofSockaddrInet6
		binary.NativeEndian.PutUint16(a.b[:], unix.AF_INET6)
		*(*[16]byte)(a.b[addr6At:]) = ip.As16()
		if ip.IsLinkLocalUnicast() {
			binary.NativeEndian.PutUint32(a.b[scopeAt:], scope)
		}
	}
	a.setPort(port)
	return a
}

// unixAddr is a sockaddr_un; false where text has no room. With autobind the
// kernel chooses an abstract name, unix(7).
func unixAddr(text []byte, abstract, autobind bool) (rawAddr, bool) {
	a := rawAddr{n: pathAt}
	binary.NativeEndian.PutUint16(a.b[:], unix.AF_UNIX)
	if autobind {
		return a, true
	}
	at := pathAt
	if abstract {
		at++
	}
	if at+len(text) > unix.SizeofSockaddrUnix {
		return a, false
	}
	a.n = uint32(at + copy(a.b[at:], text))
	if !abstract && a.n < unix.SizeofSockaddrUnix {
		a.n++ // the final NUL
	}
	return a, true
}

func errnoOrNil(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

// localAddr is getsockname(2).
func localAddr(fd int) (rawAddr, error) {
	a := rawAddr{}
	a.n = uint32(len(a.b))
	_, _, e := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(unsafe.Pointer(&a.n)))
	return a, errnoOrNil(e)
}

// bind is bind(2).
func bind(fd int, a *rawAddr) error {
	_, _, e := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.n))
	return errnoOrNil(e)
}

// connect is connect(2) of a datagram socket, which does not block.
func connect(fd int, a *rawAddr) error {
	_, _, e := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.b)), uintptr(a.n))
	return errnoOrNil(e)
}
