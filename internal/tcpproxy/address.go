package tcpproxy

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawAddr is a struct sockaddr as the kernel wrote it.
type rawAddr struct {
	n uint32                        // bytes of b, more where it was cut
	b [unix.SizeofSockaddrUnix]byte // the longest
}

// addrPort is the address of an internet socket, IPv4 always plain; of any other
// it is not valid.
func (a *rawAddr) addrPort() netip.AddrPort {
	if a.n < 2 {
		return netip.AddrPort{}
	}
	switch family := binary.NativeEndian.Uint16(a.b[:]); {
	case family == unix.AF_INET && a.n >= unix.SizeofSockaddrInet4:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.b))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), binary.BigEndian.Uint16(a.b[2:]))
	case family == unix.AF_INET6 && a.n >= unix.SizeofSockaddrInet6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&a.b))
		ip := netip.AddrFrom16(in.Addr).Unmap()
		if ip.IsLinkLocalUnicast() && ip.Is6() && in.Scope_id != 0 {
			ip = ip.WithZone(strconv.FormatUint(uint64(in.Scope_id), 10))
		}
		return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(a.b[2:]))
	}
	return netip.AddrPort{}
}

// Client is a connection that was accepted and has no backend yet.
type Client struct {
	fd   int32
	peer rawAddr
}

// Addr is the client's own address, IPv4 always plain, the zone of a link-local one
// the number of its interface. It is not valid where the client came over a unix
// socket.
func (c *Client) Addr() netip.AddrPort { return c.peer.addrPort() }

// Local is the address of ours that the client connected to, as in [Client.Addr].
// It costs a system call.
func (c *Client) Local() netip.AddrPort {
	a := nameOf(c.fd, unix.SYS_GETSOCKNAME)
	return a.addrPort()
}
