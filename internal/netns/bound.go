package netns

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// Bound is the UDP sockets that the program has bound to an address. One goroutine uses it,
// which need not be that of the [Program].
type Bound struct {
	program *Program
	address spec.Address
	diag    int
	sockets []bound   // as of the last look
	gone    int       // those that the program has closed
	seen    time.Time // when FindAddress looked last
}

// bound is a socket of the program.
type bound struct {
	ip     netip.Addr
	only   bool // of IPv6, and takes no IPv4
	cookie uint64
	unread int // bytes of its receive buffer
	room   int // bytes that may be added
}

// NewBound returns the sockets that take the datagrams for a, an address of UDP. The caller
// closes it. Every address becomes local inside.
func (p *Program) NewBound(a spec.Address) (*Bound, error) {
	if a.IP.IsValid() {
		a.IP = a.IP.Unmap().WithZone("")
	}
	if err := p.makeAddressesLocal(); err != nil {
		return nil, err
	}
	fds, err := p.makeSockets(diagKind)
	if err != nil {
		return nil, err
	}
	return &Bound{program: p, address: a, diag: fds[0]}, nil
}

// Close closes what NewBound opened. Sockets that were made live on.
func (b *Bound) Close() {
	if b.diag >= 0 {
		_ = unix.Close(b.diag)
		b.diag = -1
	}
}

// FindSockets looks for the program's sockets, and reports whether it has bound the address.
func (b *Bound) FindSockets() (bool, error) {
	before := slices.Clone(b.sockets)
	b.sockets = b.sockets[:0]
	var err error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		e := b.newQuery(family).Each(b.diag, func(found *sockdiag.InetSocket) {
			if s := boundOf(found); b.includesSocket(s) {
				b.sockets = append(b.sockets, s)
			}
		})
		if e != nil && !errors.Is(e, unix.ENOENT) && !errors.Is(e, unix.EAFNOSUPPORT) {
			err = e
		}
	}
	for _, old := range before {
		if !slices.ContainsFunc(b.sockets, func(s bound) bool { return s.cookie == old.cookie }) {
			b.gone++
		}
	}
	return len(b.sockets) > 0, err
}

// newQuery asks for the sockets that are bound to the port.
func (b *Bound) newQuery(family int) sockdiag.Inet {
	return sockdiag.Inet{Family: family, Protocol: unix.IPPROTO_UDP, States: sockdiag.Unconnected, Port: uint16(b.address.Port), Memory: true}
}

func boundOf(found *sockdiag.InetSocket) bound {
	ip := found.Local.Addr()
	return bound{
		ip:     ip.Unmap(),
		only:   found.V6Only || ip.Is6() && !ip.Is4In6() && !ip.IsUnspecified(),
		cookie: found.Cookie,
		unread: int(found.Unread),
		room:   found.Room,
	}
}

// includesSocket reports whether s is bound to the address.
func (b *Bound) includesSocket(s bound) bool {
	want := b.address.IP
	if want.IsValid() && !want.IsUnspecified() {
		return s.ip == want || s.takesFamily(want.Is4())
	}
	four, six := b.address.Families()
	return four && (s.ip.Is4() || s.takesFamily(true)) || six && s.ip.Is6()
}

// takesFamily reports whether s takes datagrams for every address of a family.
func (s bound) takesFamily(four bool) bool {
	return s.ip.IsUnspecified() && (s.ip.Is4() == four || four && !s.only)
}

// ReadQueue asks for what the program has not read. It takes some microseconds for one socket of
// a family. For more sockets the kernel walks its whole table.
func (b *Bound) ReadQueue() (spec.Queue, error) {
	if n := len(b.sockets); n == 0 || n > 2 || !b.refreshSockets() {
		if _, err := b.FindSockets(); err != nil {
			return spec.Queue{}, err
		}
	}
	q := spec.Queue{Gone: b.gone}
	for _, s := range b.sockets {
		if !q.There || s.room < q.Room {
			q.Room = s.room
		}
		q.There = true
		q.Unread += s.unread
	}
	return q, nil
}

// refreshSockets asks for each socket by itself. It is false if there are other sockets now.
func (b *Bound) refreshSockets() bool {
	for i := range b.sockets {
		known := &b.sockets[i]
		family := unix.AF_INET
		if known.ip.Is6() {
			family = unix.AF_INET6
		}
		same := false
		err := b.newQuery(family).ToLoopback(b.diag, known.ip, func(found *sockdiag.InetSocket) {
			s := boundOf(found)
			if same = b.includesSocket(s) && s.cookie == known.cookie; same {
				*known = s
			}
		})
		if err != nil || !same {
			return false
		}
	}
	return true
}

// FindAddress returns where to send the datagrams of a client, and whether they can have the
// client's own address. asked is the address of the host to which the client has sent, not valid
// where it is not known: a program that has bound every address gets the datagrams at it.
func (b *Bound) FindAddress(client, asked netip.Addr) (to netip.AddrPort, own bool) {
	client, asked = client.Unmap(), asked.Unmap()
	four := client.Is4()
	ip := b.findInFamily(four, asked)
	if !ip.IsValid() && time.Since(b.seen) > lookPause {
		b.seen = time.Now()
		if _, err := b.FindSockets(); err == nil { // the program may have bound the address
			ip = b.findInFamily(four, asked)
		}
	}
	if ip.IsValid() {
		return netip.AddrPortFrom(ip, uint16(b.address.Port)), true
	}
	if ip = b.findInFamily(!four, netip.Addr{}); !ip.IsValid() {
		return to, false
	}
	return netip.AddrPortFrom(ip, uint16(b.address.Port)), false
}

// findInFamily returns the address for one family, not valid if there is none.
func (b *Bound) findInFamily(four bool, asked netip.Addr) (ip netip.Addr) {
	for _, s := range b.sockets {
		want, all := b.address.IP, s.takesFamily(four)
		switch {
		case !all && s.ip.Is4() != four:
		case want.IsValid() && !want.IsUnspecified():
			if want.Is4() == four {
				return want
			}
		case asked.IsValid() && asked.Is4() == four && (all || s.ip == asked):
			return asked
		case !all:
			ip = s.ip
		case !ip.IsValid() && four:
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		case !ip.IsValid():
			ip = netip.IPv6Loopback()
		}
	}
	return ip
}

// MakeSockets makes n datagram sockets of a family inside, or fewer, close-on-exec and
// non-blocking, that may have any client's address, ip(7). The caller closes them.
func (b *Bound) MakeSockets(family, n int) ([]int, error) {
	return b.program.makeDatagramSockets(family, min(n, mostAhead))
}
