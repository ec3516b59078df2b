package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/sockaddr"
	"activator/internal/spec"
)

// Options of a dial target.
type Options struct {
	Prepare    func(fd int) error // is called with every TCP socket before it connects; nil: nothing
	OwnAddress bool               // the sockets have the addresses of the clients
}

// Target is a dial target: an address that the program listens at.
type Target struct {
	program *Program
	address spec.Address
	options Options

	four, six netip.Addr // where to connect; not valid: the program does not listen there
	node      int        // of a unix socket: O_PATH
	known     bool       // of a unix socket: the program is bound to it
	seen      time.Time  // when Dial looked last

	pool  [3][]int // sockets made in advance: TCP of IPv4, of IPv6, unix
	batch [3]int   // how many the last time
}

// The indices of pool.
const (
	poolFour = iota
	poolSix
	poolUnix
)

// mostAhead is how many sockets are made at once. The child costs as much as some
// ten of them.
const mostAhead = 128

// lookPause is how long Dial waits until it looks again for an address of a family at which
// the program did not listen.
const lookPause = 100 * time.Millisecond

// NewTarget returns a dial target, which belongs to the program. It asks nothing of the kernel.
func (p *Program) NewTarget(a spec.Address, o Options) *Target {
	if a.IP.IsValid() {
		a.IP = a.IP.Unmap().WithZone("")
	}
	return &Target{program: p, address: a, options: o, node: -1}
}

// Close closes what was made in advance.
func (d *Target) Close() {
	d.closeNode()
	for i := range d.pool {
		closeAll(d.pool[i])
		d.pool[i] = nil
	}
}

// Dial returns a socket that is connected to the program or is connecting, and the
// caller's. With Options.OwnAddress it has the address of client, and its port
// where that is free inside. A client that has none (not valid), or one of a
// family that the program does not listen at, is seen as the program itself.
// Before the first Dial, FindSockets has reported true.
func (d *Target) Dial(client netip.AddrPort) (fd int, err error) {
	if d.address.Path != "" {
		return d.dialUnix()
	}
	to, own := d.chooseAddress(client.Addr())
	if !to.IsValid() {
		return -1, unix.ECONNREFUSED
	}
	source := netip.AddrPort{}
	if own && d.options.OwnAddress {
		if err := d.program.makeAddressesLocal(); err != nil {
			return -1, err
		}
		source = client
		if client.Port() == uint16(d.address.Port) && client.Addr() == to {
			source = netip.AddrPortFrom(client.Addr(), 0) // it would be connected to itself
		}
	}
	fd, err = d.dialInternet(to, source)
	if (err == unix.EADDRINUSE || err == unix.EADDRNOTAVAIL) && source.Port() != 0 {
		// The program itself, or a connection that is just over, has the client's port.
		fd, err = d.dialInternet(to, netip.AddrPortFrom(source.Addr(), 0))
	}
	if source.IsValid() && (err == unix.EADDRINUSE || err == unix.EADDRNOTAVAIL || err == unix.EINVAL) {
		fd, err = d.dialInternet(to, netip.AddrPort{}) // none that could be had inside
	}
	return fd, err
}

// chooseAddress is where to connect a client, and whether its address can go with it.
func (d *Target) chooseAddress(client netip.Addr) (to netip.Addr, own bool) {
	same, other := &d.four, &d.six
	if client.Is6() {
		same, other = other, same
	}
	four, six := d.address.Families()
	wanted := four && client.Is4() || six && client.Is6()
	if !same.IsValid() && (wanted || !other.IsValid()) && time.Since(d.seen) > lookPause {
		d.seen = time.Now()
		_, _ = d.FindSockets() // the program may have begun to listen
	}
	if same.IsValid() {
		return *same, client.IsValid()
	}
	return *other, false
}

// dialInternet makes a socket that has source, if it is valid, and connects it.
func (d *Target) dialInternet(to netip.Addr, source netip.AddrPort) (fd int, err error) {
	which := poolFour
	if to.Is6() {
		which = poolSix
	}
	if fd, err = d.takeSocket(which); err != nil {
		return -1, err
	}
	if source.IsValid() {
		a := sockaddr.Inet(source.Addr(), source.Port(), sockaddr.Loopback)
		err = sockaddr.Bind(fd, &a)
	}
	if err == nil {
		a := sockaddr.Inet(to, uint16(d.address.Port), sockaddr.Loopback)
		err = sockaddr.Connect(fd, &a)
	}
	if err == unix.EINPROGRESS {
		// Through lo the answer is there already: it came while connect had the socket.
		err = readSocketError(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// readSocketError reads SO_ERROR, socket(7).
func readSocketError(fd int) error {
	value, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && value != 0 {
		err = unix.Errno(value)
	}
	return err
}

// ErrForeign says that a socket listens at the address that is not the program's: the program's
// folders, or its links, lead to it.
var ErrForeign = fmt.Errorf("what listens there is not the program's: %w", unix.ECONNREFUSED)

// errUnidentified is a mistake of the caller: no connection is made with our rights.
var errUnidentified = errors.New("the program is not identified")

func (d *Target) dialUnix() (fd int, err error) {
	if d.program.place == nil {
		return -1, errUnidentified
	}
	fd, err = d.connectUnix()
	if (err == unix.ECONNREFUSED || err == unix.ENOENT) && !d.isAbstract() {
		// It may listen at the same path by another socket.
		if there, _ := d.FindSockets(); there {
			fd, err = d.connectUnix()
		}
	}
	return fd, err
}

func (d *Target) isAbstract() bool { return strings.HasPrefix(d.address.Path, "@") }

// connectUnix connects to the program, and to no other process.
//
// A path may lead to sockets that the program must not connect to, or could not: the program
// can make links, and it may see folders of the host. So the first connection to a node is made
// with the ids of the program, and nothing is sent over it before it is certain that the program
// listens. This node is held open, and one socket is bound to it for ever: bind(2) makes a node,
// and takes none that is there. So the next connections need no question. An abstract name in a
// network of the program's own belongs to the program.
func (d *Target) connectUnix() (fd int, err error) {
	name := fmt.Sprintf("/proc/self/fd/%d", d.node) // connect(2) follows it to the node
	if d.isAbstract() {
		name = d.address.Path
		d.known = d.program.alone
	}
	if fd, err = d.takeSocket(poolUnix); err != nil {
		return -1, err
	}
	connect := func() error { return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) }
	if d.known {
		err = connect()
	} else if err = d.program.ids.Do(connect); err == nil {
		err = d.checkListener(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// checkListener returns an error unless fd is connected to the program.
func (d *Target) checkListener(fd int) error {
	there, err := d.program.place.HasListener(fd)
	switch {
	case err != nil:
		return fmt.Errorf("who listens at %s: %w", d.address.Path, err)
	case !there:
		return ErrForeign
	}
	d.known = true
	return nil
}

// takeSocket takes a socket from the pool, which it fills when it is empty: the busier
// the target, the fuller.
func (d *Target) takeSocket(which int) (fd int, err error) {
	if len(d.pool[which]) == 0 {
		if err := d.fillPool(which); err != nil {
			return -1, err
		}
	}
	last := len(d.pool[which]) - 1
	fd = d.pool[which][last]
	d.pool[which] = d.pool[which][:last]
	return fd, nil
}

func (d *Target) fillPool(which int) error {
	n := min(max(1, 2*d.batch[which]), mostAhead, budget.LimitAhead())
	domain := [...]int{unix.AF_INET, unix.AF_INET6, unix.AF_UNIX}[which]
	kinds := make([]spec.Kind, n)
	for i := range kinds {
		kinds[i] = spec.Kind{Family: domain, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}
	}
	fds, err := d.program.makeSockets(kinds...)
	if errors.Is(err, unix.EMFILE) && n > 1 {
		fds, err = d.program.makeSockets(kinds[0])
		n = 0
	}
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := d.prepareSocket(which, fd); err != nil {
			closeAll(fds)
			return err
		}
	}
	d.pool[which], d.batch[which] = fds, n
	return nil
}

// prepareSocket sets what a socket needs to have a client's address, ip(7). With
// SO_REUSEADDR neither a connection that is just over stands in its way, nor it in
// the way of a program that binds the port anew.
func (d *Target) prepareSocket(which, fd int) error {
	if which == poolUnix {
		return nil
	}
	level, name := unix.SOL_IP, unix.IP_TRANSPARENT
	if which == poolSix {
		level, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if d.options.OwnAddress {
		if err := unix.SetsockoptInt(fd, level, name, 1); err != nil {
			return os.NewSyscallError("setsockopt IP_TRANSPARENT", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
		}
	}
	if d.options.Prepare == nil {
		return nil
	}
	return d.options.Prepare(fd)
}
