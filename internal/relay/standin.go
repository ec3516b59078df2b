package relay

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// nobody is the kernel's overflow id, proc_sys_kernel(5).
const nobody = 65534

// StandIn makes an inner socket for host, a bound UDP or unixgram socket, lent for
// the call: we keep a descriptor of our own that shares its open file description,
// so the address stays taken until Close. Meanwhile nobody else is to read it.
func (m *Maker) StandIn(host *os.File, o Options) (*Datagrams, error) {
	d := newDatagrams(o)
	d.maker = m
	err := d.adopt(host)
	if err == nil {
		err = d.settle()
	}
	if err == nil {
		err = d.openEpoll()
	}
	if err == nil {
		err = d.prepareHost()
	}
	if err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("relay %s: %w", d.self.String(), err)
	}
	d.first = o.Undelivered.take()
	return d, nil
}

func newDatagrams(o Options) *Datagrams {
	if o.Flows <= 0 {
		o.Flows = defaultFlows
	}
	if o.Expire <= 0 {
		o.Expire = defaultExpire
	}
	if o.UID == 0 {
		o.UID, o.GID = nobody, nobody
	}
	return &Datagrams{options: o, node: -1, host: -1, start: time.Now(),
		events: make([]unix.EpollEvent, 256), spare: make(map[int][]int)}
}

// adopt looks at the host's socket.
func (d *Datagrams) adopt(host *os.File) (err error) {
	if d.host, err = fd.Dup(host); err != nil {
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

// firstFlows is how many flow sockets come with a realm.
const firstFlows = 8

// settle has the realm made.
func (d *Datagrams) settle() error {
	size, err := unix.GetsockoptInt(d.host, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_RCVBUF", err)
	}
	if d.options.ReceiveBuffer > 0 {
		size = d.options.ReceiveBuffer
	}
	inside := d.self
	if d.family == unix.AF_INET6 {
		inside = inetAddr(d.self.ip(), d.self.port(), loopback)
	}
	o := order{Domain: d.family, Address: inside.bytes(), ReceiveBuffer: size}
	domains := []int{d.family}
	if d.family == unix.AF_INET6 {
		only, err := unix.GetsockoptInt(d.host, unix.SOL_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return os.NewSyscallError("getsockopt IPV6_V6ONLY", err)
		}
		o.V6Only = only != 0
		switch {
		case d.self.ip().Is4In6():
			domains = []int{unix.AF_INET}
		case d.wildcard && !o.V6Only:
			domains = append(domains, unix.AF_INET)
		}
	}
	for _, domain := range domains {
		for range firstFlows {
			o.Flows = append(o.Flows, domain)
		}
	}
	fds, node, generation, err := d.maker.found(&o)
	if err != nil {
		return err
	}
	d.generation = generation
	d.innerFD, fds = fds[0], fds[1:]
	d.inner = os.NewFile(uintptr(d.innerFD), d.name)
	if d.target = inside; node {
		d.node, fds = fds[0], fds[1:]
		d.target, _ = unixAddr(fmt.Appendf(nil, "/proc/self/fd/%d", d.node), false, false)
	}
	// More than rmem_max only root may have; net.core.rmem_max is what others get.
	_ = unix.SetsockoptInt(d.innerFD, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size)
	d.stock(o.Flows, fds)
	return nil
}

// stock takes flow sockets.
func (d *Datagrams) stock(domains, fds []int) {
	for i, fd := range fds {
		d.spare[domains[i]] = append(d.spare[domains[i]], fd)
	}
	d.share.Take(len(fds))
}

// spares is how many unbound flow sockets there are.
func (d *Datagrams) spares() (n int) {
	for _, fds := range d.spare {
		n += len(fds)
	}
	return n
}

// take returns an unbound flow socket, which the caller closes.
func (d *Datagrams) take(domain int) (int, error) {
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

// order asks the maker for as many more as there are flows already, which keeps
// orders rare.
func (d *Datagrams) order(domain int) error {
	if d.now < d.noOrder {
		return errFull
	}
	room := d.share.Room()
	if domain == unix.AF_UNIX {
		room = (room + 1) / 2 // each has a node, too
	}
	n := min(max(len(d.byClient), firstFlows), maxFiles, d.options.Flows-len(d.byClient), room)
	if n <= 0 {
		return errFull
	}
	domains := make([]int, n)
	for i := range domains {
		domains[i] = domain
	}
	fds, err := d.make(domains)
	if err != nil {
		d.noOrder = d.now + time.Second // there may be many new clients
		return err
	}
	d.stock(domains[:len(fds)], fds)
	return nil
}

// make has flow sockets made, all of one domain; where they are the program's, perhaps
// fewer.
func (d *Datagrams) make(domains []int) ([]int, error) {
	if d.carry.inside != nil {
		return d.carry.inside.Sockets(domains[0], len(domains))
	}
	return d.maker.more(d.innerFD, d.generation, domains)
}

func (d *Datagrams) openEpoll() error {
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
func (d *Datagrams) prepareHost() (err error) {
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
