package main

import (
	"errors"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// address is where a witness listens: tcp4, tcp6, udp4, udp6, or "mapped" before
// one of the v4 ones for its v4-mapped form.
func (m *mission) address(witness string) (unix.Sockaddr, error) {
	mapped := len(witness) > 6 && witness[:6] == "mapped"
	if mapped {
		witness = witness[6:]
	}
	at, err := netip.ParseAddrPort(m.Witness[witness])
	if err != nil {
		return nil, errors.New("no witness " + witness)
	}
	if at.Addr().Is4() && !mapped {
		return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}, nil
	}
	return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}, nil
}

// raw is a witness's address in the kernel's form.
func (m *mission) raw(witness string) ([]byte, error) {
	address, err := m.address(witness)
	if err != nil {
		return nil, err
	}
	return rawOf(address)
}

func rawOf(address unix.Sockaddr) ([]byte, error) {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		text := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: network(a.Port), Addr: a.Addr}
		return bytesOf(&text), nil
	case *unix.SockaddrInet6:
		text := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: network(a.Port), Addr: a.Addr}
		return bytesOf(&text), nil
	case *unix.SockaddrUnix: // abstract: from a zero byte to the end
		text := append([]byte{unix.AF_UNIX, 0}, a.Name...)
		if text[2] == '@' {
			text[2] = 0
		}
		return text, nil
	}
	return nil, errors.New("no such address")
}

// bytesOf lends the memory of a value.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// network is a port in network byte order; we are little-endian on both
// architectures.
func network(port int) uint16 { return uint16(port>>8 | port&0xff<<8) }

// unspecified is the address that dissolves a connection, connect(2).
var unspecified = [16]byte{}

// dissolve takes the peer from a socket, and the listening from a listener.
func dissolve(fd int) error {
	return call(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), 16)
}

// highBit is above the 32 bits that the kernel takes of an int: a filter that
// compares all 64 sees another number (CVE-2019-7303).
const highBit = 1 << 32

// call is a system call whose value does not matter. Memory that an argument
// points to stays where it is.
//
//go:uintptrescapes
func call(number uintptr, args ...uintptr) error {
	_, err := valueOf(number, args...)
	return err
}

// valueOf is a system call's value.
//
//go:uintptrescapes
func valueOf(number uintptr, args ...uintptr) (int, error) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// addressOf is where data is, for what is mapped and does not move.
func addressOf(data []byte) uintptr { return uintptr(unsafe.Pointer(&data[0])) }
