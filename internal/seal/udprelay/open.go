package udprelay

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/netns"
)

// nobody is the kernel's overflow id, proc_sys_kernel(5).
const nobody = 65534

// SocketRelay stands between a datagram socket of the host and a relay socket, which a
// service has in its place.
//
// Both queues hold what a service has not read: while the inner one is well
// filled, nothing is taken off the host's. Nothing is lost between two instances
// of a service that are lent the same relay socket; and what it holds when it is closed
// is [Undelivered], for the next one.
type SocketRelay struct{ *relay }

// OpenSocketRelay makes a relay socket for host, a bound UDP or unixgram socket, lent for
// the call: we keep a descriptor of our own that shares its open file description,
// so the address stays taken until Close. Meanwhile nobody else is to read it. The relay
// socket is in a new network namespace of owner's.
func OpenSocketRelay(owner *netns.Owner, host *os.File, o Options) (*SocketRelay, error) {
	d := newRelay(o)
	err := d.adopt(host)
	if err == nil {
		err = d.settle(owner)
	}
	if err = d.begin(err); err != nil {
		return nil, err
	}
	return &SocketRelay{d}, nil
}

// File lends the relay socket for the service, until Close. It is blocking; status
// flags are shared with whoever holds it.
func (d *SocketRelay) File() *os.File { return d.inner }

// begin makes ready what has its sockets, unless err has come in between; then d is closed.
func (d *relay) begin(err error) error {
	if err == nil {
		err = d.openEpoll()
	}
	if err == nil {
		err = d.prepareHost()
	}
	if err != nil {
		_ = d.Close()
		return fmt.Errorf("relay %s: %w", d.self.String(), err)
	}
	d.first = d.options.Undelivered.take()
	return nil
}

func newRelay(o Options) *relay {
	if o.Flows <= 0 {
		o.Flows = defaultFlows
	}
	if o.Expire <= 0 {
		o.Expire = defaultExpire
	}
	if o.UID == 0 {
		o.UID, o.GID = nobody, nobody
	}
	return &relay{options: o, node: -1, host: -1, start: time.Now(),
		events: make([]unix.EpollEvent, 256), spare: make(map[int][]int)}
}

// adopt looks at the host's socket.
func (d *relay) adopt(host *os.File) (err error) {
	if d.host, err = fd.DupFile(host); err != nil {
		return err
	}
	if d.self, err = localAddr(d.host); err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	kind, err := unix.GetsockoptInt(d.host, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_TYPE", err)
	}
	d.family = d.self.family()
	network := "udp"
	if d.family == unix.AF_UNIX {
		network = "unixgram"
	}
	d.name = "relay " + network + " " + d.self.String()
	ip := d.self.ip().Unmap()
	d.wildcard = ip.IsValid() && ip.IsUnspecified()
	switch {
	case kind != unix.SOCK_DGRAM || !ip.IsValid() && d.family != unix.AF_UNIX:
		return errors.New("only UDP and unix datagram sockets are relayed")
	case d.family == unix.AF_UNIX && d.self.n <= pathAt || ip.IsValid() && d.self.port() == 0:
		return errors.New("the socket is not bound")
	case ip.IsMulticast() || ip == broadcast:
		return errors.New("a multicast address cannot be relayed: nothing can answer from it")
	}
	return nil
}

// firstFlows is how many flow sockets come with a relay socket, of each family.
const firstFlows = 8

// settle makes the relay socket, and the first flow sockets.
func (d *relay) settle(owner *netns.Owner) error {
	v6only, err := d.isV6Only()
	if err != nil {
		return err
	}
	var domains []int
	for range firstFlows {
		if !d.self.ip().Is4In6() {
			domains = append(domains, d.family)
		}
		if d.family == unix.AF_INET6 && (d.self.ip().Is4In6() || d.wildcard && !v6only) {
			domains = append(domains, unix.AF_INET)
		}
	}
	fd, flows, err := owner.NewNetwork(d.family, domains)
	if err != nil {
		return err
	}
	d.innerFD, d.inner = fd, os.NewFile(uintptr(fd), d.name)
	d.stock(domains, flows)
	if err := d.prepareInner(v6only); err != nil {
		return err
	}
	d.target = d.self
	if d.family == unix.AF_INET6 {
		d.target = inetAddr(d.self.ip(), d.self.port(), loopback)
	}
	path, abstract := d.target.path()
	if d.family != unix.AF_UNIX || abstract {
		err = bind(fd, &d.target)
	} else if d.node, err = owner.BindNode(fd, string(path), d.target.bytes()); err == nil {
		d.target, _ = unixAddr(fmt.Appendf(nil, "/proc/self/fd/%d", d.node), false, false)
	}
	if err != nil {
		return &stepError{"bind " + d.self.String(), err}
	}
	return nil
}

// isV6Only reports whether the host's socket takes IPv6 alone.
func (d *relay) isV6Only() (bool, error) {
	if d.family != unix.AF_INET6 {
		return false, nil
	}
	only, err := unix.GetsockoptInt(d.host, unix.SOL_IPV6, unix.IPV6_V6ONLY)
	return only != 0, os.NewSyscallError("getsockopt IPV6_V6ONLY", err)
}

// prepareInner sets the options of a relay socket. The ones of the internet let it bind
// addresses of the host, and answer from them when the service names one
// (IPV6_PKTINFO). SO_REUSEADDR is for clients with the port of the service, see
// [SocketRelay] and bindFlow.
func (d *relay) prepareInner(v6only bool) error {
	size, err := unix.GetsockoptInt(d.host, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_RCVBUF", err)
	}
	if d.options.ReceiveBuffer > 0 {
		size = d.options.ReceiveBuffer
	}
	options := [][3]int{{unix.SOL_SOCKET, unix.SO_RCVBUF, size}}
	switch d.family {
	case unix.AF_INET:
		options = append(options, [][3]int{{unix.SOL_IP, unix.IP_FREEBIND, 1}, {unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}...)
	case unix.AF_INET6:
		only := 0
		if v6only {
			only = 1
		}
		options = append(options, [][3]int{{unix.SOL_IPV6, unix.IPV6_V6ONLY, only}, {unix.SOL_IPV6, unix.IPV6_FREEBIND, 1},
			{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}}...)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(d.innerFD, o[0], o[1], o[2]); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	// More than rmem_max only root may have; net.core.rmem_max is what others get.
	_ = unix.SetsockoptInt(d.innerFD, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	return nil
}

// stock takes flow sockets.
func (d *relay) stock(domains, fds []int) {
	for i, fd := range fds {
		d.spare[domains[i]] = append(d.spare[domains[i]], fd)
	}
	d.share.Take(len(fds))
}

// spares is how many unbound flow sockets there are.
func (d *relay) spares() (n int) {
	for _, fds := range d.spare {
		n += len(fds)
	}
	return n
}

// take returns an unbound flow socket, which the caller closes.
func (d *relay) take(domain int) (int, error) {
	if len(d.spare[domain]) == 0 {
		if err := d.order(domain); err != nil {
			return -1, err
		}
	}
	n := len(d.spare[domain]) - 1
	fd := d.spare[domain][n]
	d.spare[domain] = d.spare[domain][:n]
	d.share.Give(1)
	return fd, nil
}

// errFull says that there is no room for another flow.
var errFull = errors.New("no room for another flow")

// mostOrdered is how many flow sockets are made at once.
const mostOrdered = 128

// order makes as many more as there are flows already, which keeps orders rare.
func (d *relay) order(domain int) error {
	if d.now < d.noOrder {
		return errFull
	}
	room := d.share.Room()
	if domain == unix.AF_UNIX {
		room = (room + 1) / 2 // each has a node, too
	}
	n := min(max(len(d.byClient), firstFlows), mostOrdered, d.options.Flows-len(d.byClient), room)
	if n <= 0 {
		return errFull
	}
	fds, err := d.make(domain, n)
	if err != nil {
		d.noOrder = d.now + time.Second // there may be many new clients
		return err
	}
	domains := make([]int, len(fds))
	for i := range domains {
		domains[i] = domain
	}
	d.stock(domains, fds)
	return nil
}

// make makes n flow sockets of a domain; where they are the program's, perhaps fewer.
func (d *relay) make(domain, n int) ([]int, error) {
	if d.carry.inside != nil {
		return d.carry.inside.MakeSockets(domain, n)
	}
	return netns.MakeFlows(d.innerFD, domain, n)
}

func (d *relay) openEpoll() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile puts only non-blocking files into the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("fcntl", err)
	}
	d.epfd, d.epoll = fd, os.NewFile(uintptr(fd), "epoll")
	if err := d.epoll.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	return d.watch(d.host, hostSlot, 0, unix.EPOLLIN)
}

// prepareHost asks for what is needed with each datagram, and remembers how it
// was: the address that was asked, or who asked, and when.
func (d *relay) prepareHost() (err error) {
	type option struct{ level, name int }
	var wanted []option
	switch {
	case d.family == unix.AF_UNIX:
		wanted = []option{{unix.SOL_SOCKET, unix.SO_PASSCRED}, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD}}
		if d.creds, err = credentialsOf(d.options.UID, d.options.GID); err != nil {
			return err
		}
	case !d.wildcard:
		return nil
	case d.family == unix.AF_INET6:
		wanted = []option{{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO}}
	default:
		wanted = []option{{unix.SOL_IP, unix.IP_PKTINFO}}
	}
	for _, o := range wanted {
		before, err := unix.GetsockoptInt(d.host, o.level, o.name)
		if err == nil {
			err = unix.SetsockoptInt(d.host, o.level, o.name, 1)
		}
		if err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
		d.restore = append(d.restore, func() { _ = unix.SetsockoptInt(d.host, o.level, o.name, before) })
	}
	return nil
}
