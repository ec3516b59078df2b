package tcpproxy

import (
	"net/netip"
	"strconv"

	"activator/internal/kernel/sockaddr"
)

// addrPortOf is the address of an internet socket, IPv4 always plain; of any other
// it is not valid.
func addrPortOf(a *sockaddr.Raw) netip.AddrPort {
	ip := a.IP().Unmap()
	if !ip.IsValid() {
		return netip.AddrPort{}
	}
	if ip.Is6() && ip.IsLinkLocalUnicast() && a.Scope() != 0 {
		ip = ip.WithZone(strconv.FormatUint(uint64(a.Scope()), 10))
	}
	return netip.AddrPortFrom(ip, a.Port())
}

// Client is a connection that was accepted and has no backend yet.
type Client struct {
	fd   int32
	peer sockaddr.Raw
}

// clientOf is the client of a connection; without an address when it has gone.
func clientOf(fd int32) Client {
	peer, _ := sockaddr.Peer(int(fd))
	return Client{fd, peer}
}

// Addr is the client's own address, IPv4 always plain, the zone of a link-local one
// the number of its interface. It is not valid where the client came over a unix
// socket.
func (c *Client) Addr() netip.AddrPort { return addrPortOf(&c.peer) }

// Local is the address of ours that the client connected to, as in [Client.Addr].
// It costs a system call.
func (c *Client) Local() netip.AddrPort {
	a, _ := sockaddr.Local(int(c.fd))
	return addrPortOf(&a)
}
