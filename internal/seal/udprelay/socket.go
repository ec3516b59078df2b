package udprelay

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
	"activator/internal/netns"
)

// SocketRelay stands between a datagram socket of the host and a relay socket, which a
// service has in its place.
//
// Both queues hold what a service has not read: while that of the relay socket is well
// filled, nothing is taken off the host's. Nothing is lost between two instances
// of a service that are lent the same relay socket; and what it holds when it is closed
// is [Undelivered], for the next one.
type SocketRelay struct {
	*relay
	socket *relaySocket
}

// OpenSocketRelay makes a relay socket for host, a bound UDP or unixgram socket, lent for
// the call: we keep a descriptor of our own that shares its open file description,
// so the address stays taken until Close. Meanwhile only the relay is to read it. The relay
// socket is in a new network namespace of owner's.
func OpenSocketRelay(owner *netns.Owner, host *os.File, o Options) (*SocketRelay, error) {
	r, err := newRelay(host, o)
	if err != nil {
		return nil, err
	}
	socket, err := openRelaySocket(owner, r)
	if err != nil {
		return nil, r.failOpening(err)
	}
	var c carrier
	if r.family == unix.AF_UNIX {
		c, err = newUnixRelay(r, socket, owner)
	} else {
		c, err = newUDPRelay(r, socket)
	}
	if err != nil {
		_ = socket.file.Close()
		return nil, r.failOpening(err)
	}
	r.begin(c)
	return &SocketRelay{r, socket}, nil
}

// File lends the relay socket for the service, until Close. It is blocking; status
// flags are shared with all that hold it.
func (s *SocketRelay) File() *os.File { return s.socket.file }

// relaySocket is what a service has in the place of the host's socket.
type relaySocket struct {
	file *os.File
	fd   int // its number, until it is closed
	mark mark
	name sockaddr.Raw // that it has inside, as clients would see it
}

// openRelaySocket makes the relay socket of r, and the first flow sockets. The caller closes
// the one, and r the others.
func openRelaySocket(owner *netns.Owner, r *relay) (*relaySocket, error) {
	v6only := 0
	if r.family == unix.AF_INET6 {
		var err error
		if v6only, err = unix.GetsockoptInt(r.host, unix.SOL_IPV6, unix.IPV6_V6ONLY); err != nil {
			return nil, os.NewSyscallError("getsockopt IPV6_V6ONLY", err)
		}
	}
	var domains []int
	for range firstFlows {
		if !r.self.IP().Is4In6() {
			domains = append(domains, r.family)
		}
		if r.family == unix.AF_INET6 && (r.self.IP().Is4In6() || r.wildcard && v6only == 0) {
			domains = append(domains, unix.AF_INET)
		}
	}
	fd, flows, err := owner.NewNetwork(r.family, domains)
	if err != nil {
		return nil, err
	}
	for i, flow := range flows {
		r.flows.addUnbound(domains[i], flow)
	}
	s := &relaySocket{os.NewFile(uintptr(fd), r.String()), fd, newMark(), r.self}
	r.flows.makeSockets = s.makeFlows
	if err = s.setOptions(r, v6only); err == nil {
		err = s.mark.setOn(flows, domains...)
	}
	if err == nil && r.family != unix.AF_UNIX {
		err = s.mark.admitAlone(fd)
	}
	if err != nil {
		_ = s.file.Close()
		return nil, err
	}
	return s, nil
}

// makeFlows makes n more flow sockets.
func (s *relaySocket) makeFlows(domain, n int) ([]int, error) {
	flows, err := netns.MakeFlows(s.fd, domain, n)
	if err != nil {
		return nil, err
	}
	if err := s.mark.setOn(flows, domain); err != nil {
		closeAll(flows)
		return nil, err
	}
	return flows, nil
}

// setOptions sets the options of a relay socket. Its receive buffer is twice the host's,
// net.core.rmem_max permitting. The ones of the internet let it bind
// addresses of the host, and answer from them when the service names one
// (IPV6_PKTINFO). SO_REUSEADDR is for clients with the port of the service, see bindTo.
func (s *relaySocket) setOptions(r *relay, v6only int) error {
	size, err := unix.GetsockoptInt(r.host, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_RCVBUF", err)
	}
	options := []option{{unix.SOL_SOCKET, unix.SO_RCVBUF, size}}
	switch r.family {
	case unix.AF_INET:
		options = append(options, option{unix.SOL_IP, unix.IP_FREEBIND, 1}, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	case unix.AF_INET6:
		options = append(options, option{unix.SOL_IPV6, unix.IPV6_V6ONLY, v6only}, option{unix.SOL_IPV6, unix.IPV6_FREEBIND, 1},
			option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	for _, o := range options {
		if err := o.set(s.fd); err != nil {
			return err
		}
	}
	// More than rmem_max only root may have; net.core.rmem_max is what others get.
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	return nil
}

// bindError says what a relay socket could not be bound to.
func bindError(a *sockaddr.Raw, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bind %s: %w", a.String(), err)
}
