package udprelay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// udp carries the datagrams of a UDP socket in batches: what the relay of a relay socket
// has in common with that of a program.
type udp struct {
	*relay
	inside  inside
	in, out *batch
	burst   int  // how many datagrams of the host's queue are asked for at once; 0: as many as there is room for
	chooses bool // answers may leave from another address than the client has asked
}

// inside is what the datagrams of a UDP socket are carried to.
type inside interface {
	// findRoom is how many bytes may be added to its queue, and whether that is empty.
	findRoom() (n int, empty bool, err error)
	// findTarget finds where the datagrams of f go; false: nowhere, or not from where f stands.
	findTarget(f *flow) bool
	// bindFlow gives the flow socket of f its address.
	bindFlow(f *flow) error
	// noteSent notes that the next datagrams of the batch, up to before end, are sent for f.
	noteSent(f *flow, end int)
}

func (*udp) keepTime()               {}
func (*udp) nextTime() time.Duration { return 0 }

// isFatal: the descriptor is not what it should be.
func isFatal(err error) bool {
	return err == unix.EBADF || err == unix.ENOTSOCK || err == unix.EINVAL || err == unix.EFAULT || err == unix.ENOSYS
}

// longestInside is the longest segment on the way inside: the MTU of lo is
// 64 KiB.
const longestInside = 16 << 10

// firstBurst is how many datagrams are asked for where few come: each one asked for costs a little.
const firstBurst = 4

// many datagrams at once are worth to wake up a little later, for more.
const many = 4

// takeBatch takes a batch off the host's queue, or what was taken before; false: there is
// nothing.
func (u *udp) takeBatch() (bool, error) {
	if u.in == nil {
		u.in = batches.Get().(*batch)
	}
	u.in.reset()
	if len(u.first) > 0 {
		u.first = u.in.loadUndelivered(u.first)
		return true, nil // and hostReady, as at the beginning
	}
	most := batchSize
	if u.burst > 0 {
		most = u.burst
	}
	n, err := u.in.receive(u.host, most, true, u.wildcard)
	if err == nil {
		u.hostReady = n == most
		if u.burst > 0 {
			u.burst = min(max(2*n, firstBurst), batchSize)
		}
		u.crowded = n >= many
		return true, nil
	}
	if err = u.noteEmpty(err); isFatal(err) {
		return false, os.NewSyscallError("recvmmsg", err)
	}
	return false, nil // an ICMP error of an earlier answer: the next call goes on
}

// forwardBatch sends what the batch holds, while there is room for it inside, and returns how much room is left.
func (u *udp) forwardBatch(room int, empty bool) (int, error) {
	for b := u.in; b.isPending(); {
		if b.done[b.next] {
			b.next++
			continue
		}
		f := u.flowOf(b)
		if f == nil { // and so the log was told
			b.done[b.next] = true
			continue
		}
		end, cost := b.countFitting(room)
		if end == b.next && !empty {
			var err error
			if room, empty, err = u.inside.findRoom(); err != nil {
				return 0, err
			}
			if end, cost = b.countFitting(room); end == b.next && !empty {
				u.inStall.begin(u.now)
				return room, nil
			}
		}
		room, empty = room-cost, false
		if end == b.next { // an empty queue takes any one
			end, room = end+1, 0
		}
		u.flows.noteQuestion(f, u.now)
		u.inside.noteSent(f, end)
		b.outN = 0
		b.packMessages(b.next, end, f.insideAddress(), nil, longestInside)
		if !u.sendInside(b, f) {
			return 0, nil
		}
	}
	return room, nil
}

// countFitting counts the next datagrams of one client that there is room for: up to
// before end, at cost.
func (b *batch) countFitting(room int) (end, cost int) {
	for end = b.next; end < b.n && !b.done[end] && b.isLikeNext(end); end++ {
		c := estimateCharge(int(b.in[end].n))
		if cost+c > room {
			break
		}
		cost += c
	}
	return end, cost
}

// isLikeNext reports whether datagram i is from the same client to the same
// address as the next one.
func (b *batch) isLikeNext(i int) bool {
	return bytes.Equal(b.names[i].Bytes(), b.names[b.next].Bytes()) && bytes.Equal(b.controlOf(i), b.controlOf(b.next))
}

// estimateCharge is at least what a datagram takes of a receive buffer: truesize, struct
// sk_buff and its data, which the kernel rounds up to a power of two.
func estimateCharge(n int) int { return 1280 + 2*n }

// sendInside sends what is packed; false: there is no room now.
func (u *udp) sendInside(b *batch, f *flow) bool {
	again := false
	for at := 0; at < b.outN; {
		n, err := mmsg(unix.SYS_SENDMMSG, f.fd, b.out[at:b.outN])
		switch {
		case n > 0:
			at += n
			u.inStall.delay = 0
		case noRoom(err):
			u.inStall.begin(u.now)
			return false
		case err == unix.ECONNREFUSED && !again: // of an earlier one: the service was connected to another client
			again = true
			u.noteLost(1, lostRefused, err)
			continue
		default: // nothing that this one could be sent as
			u.noteLost(b.outEnd[at]-b.next, lostInside, err)
			at++
		}
		b.next = b.outEnd[at-1]
	}
	return true
}

// flowOf returns the flow of the next datagram, a new one where its client is
// new; nil: the datagram is to be dropped.
func (u *udp) flowOf(b *batch) *flow {
	name, asked := &b.names[b.next], b.controlOf(b.next)
	if f := u.flows.byClient[string(name.Bytes())]; f != nil {
		if !bytes.Equal(f.asked.bytes(), asked) {
			u.setAsked(f, asked)
		}
		if u.inside.findTarget(f) {
			return f
		}
		u.dropFlow(f)
	}
	f := u.newFlow(name, asked)
	if f == nil {
		return nil
	}
	if err := u.openFlow(f, f.inner.Family(), u.inside.bindFlow, unix.EPOLLIN); err != nil {
		u.refuseClient(err)
		return nil
	}
	return f
}

// newFlow is the flow of a new client, without a socket; nil where a client has
// no address that could be answered: port or address 0, or our own, which would
// be an endless loop.
func (u *udp) newFlow(client *sockaddr.Raw, asked []byte) *flow {
	f := newFlow(client, client.Bytes())
	f.gso, f.burst = longestOutside, 4
	u.setAsked(f, asked)
	switch ip := client.IP().Unmap(); {
	case !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || client.Port() == 0,
		f.inner.IP() == ip && client.Port() == u.self.Port():
		u.noteLost(1, lostNowhere, nil)
	case !u.inside.findTarget(f):
		u.noteLost(1, lostUnheard, nil)
	default:
		return f
	}
	return nil
}

// insideAddress is where to send inside, empty: the socket is connected.
func (f *flow) insideAddress() []byte {
	if f.connected {
		return nil
	}
	return f.inner.Bytes()
}

// bindTo binds a flow socket to an address. It may be taken inside:
// by a client of the same link-local address on another link (then this one is
// seen with another port), or, with the port of the service itself, by the
// wildcard (then SO_REUSEADDR, which the relay socket has, lets both have it, and
// the more exact one gets what is sent to it). The latter is not for an address
// of our own host: other clients ask that one.
func (u *udp) bindTo(f *flow, a sockaddr.Raw) error {
	err := sockaddr.Bind(f.fd, &a)
	if err == unix.EADDRINUSE && u.wildcard && a.Port() == u.self.Port() && !isOwnAddress(f.client) {
		if err = unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err == nil {
			err = sockaddr.Bind(f.fd, &a)
		}
	}
	if err == unix.EADDRINUSE {
		a.SetPort(0)
		err = sockaddr.Bind(f.fd, &a)
	}
	return err
}

// isOwnAddress reports whether a client's address is one of the host's: only those
// can be bound.
func isOwnAddress(a sockaddr.Raw) bool {
	a.SetPort(0)
	fd, err := unix.Socket(a.Family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	return sockaddr.Bind(fd, &a) != unix.EADDRNOTAVAIL
}

var (
	broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255}) // the limited one, ip(7)
	loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
)

// loopbackOf is the address of lo in the family of ip.
func loopbackOf(four bool) netip.Addr {
	if four {
		return loopback4
	}
	return netip.IPv6Loopback()
}

// setAsked notes which address of the host the client asked: answers leave from it,
// and a service that looks (IP_PKTINFO) sees it.
func (u *udp) setAsked(f *flow, asked []byte) {
	f.asked.set(asked)
	ip := u.self.IP().Unmap()
	from := f.from.b[:0]
	if p := findControl(asked, unix.SOL_IP, unix.IP_PKTINFO); len(p) >= unix.SizeofInet4Pktinfo {
		// ipi_spec_dst is ours for a broadcast, too; of what was queued before we
		// asked for it there is only ipi_addr. ip(7), ipv4_pktinfo_prepare
		if ip = netip.AddrFrom4([4]byte(p[4:])); ip.IsUnspecified() {
			ip = netip.AddrFrom4([4]byte(p[8:]))
		}
		from = appendFrom4(from, ip)
	} else if p := findControl(asked, unix.SOL_IPV6, unix.IPV6_PKTINFO); len(p) >= unix.SizeofInet6Pktinfo {
		link := uint32(0)
		if ip = netip.AddrFrom16([16]byte(p)); ip.IsLinkLocalUnicast() {
			link = binary.NativeEndian.Uint32(p[16:])
		}
		from = appendFrom6(from, ip, link)
	} else if u.wildcard {
		ip = loopbackOf(f.client.IP().Unmap().Is4())
	}
	if ip = ip.Unmap(); ip.IsMulticast() || ip == broadcast {
		from, ip = nil, loopbackOf(ip.Is4())
	}
	f.from.n = len(from)
	f.asks = ip
	f.inner = sockaddr.Inet(ip, u.self.Port(), sockaddr.Loopback)
}

// longestOutside is the longest segment on the way to a client, where a
// network card may have to do it, and an MTU of 1500 is to be expected.
const longestOutside = 1472

// carryOut carries a batch of answers to their clients.
func (u *udp) carryOut() error {
	if u.out == nil {
		u.out = batches.Get().(*batch)
	}
	b := u.out
	if !b.isPending() {
		b.reset()
		for len(u.flows.ready) > 0 && b.n < batchSize {
			u.gatherAnswers(b)
		}
	}
	for b.isPending() && u.sendAnswers(b) {
	}
	return nil
}

// gatherAnswers takes answers from the first ready flow.
func (u *udp) gatherAnswers(b *batch) {
	f, first := u.flows.ready[0], b.n
	most := min(f.burst, batchSize-b.n)
	n, err := b.receive(f.fd, most, u.chooses, false)
	if err == unix.ECONNREFUSED { // the answer from inside: no socket was there
		u.noteLost(1, lostRefused, err)
	}
	more := n == most || err != nil && err != unix.EAGAIN // an ICMP error: read on
	if n == f.burst {
		f.burst = min(2*f.burst, batchSize)
	} else if err == nil {
		f.burst = max(2*n, 2)
	}
	for i := first; i < b.n; i++ {
		b.flows[i] = f
	}
	if n > 0 {
		f.answers += n
		u.flows.noteAnswer(f, u.now)
	}
	u.flows.firstDone(more)
}

// sendAnswers sends what it can of b; false: there is no room now.
func (u *udp) sendAnswers(b *batch) bool {
	b.outN = 0
	for at := b.next; at < b.n; {
		f, end := b.flows[at], at+1
		for end < b.n && b.flows[end] == f && bytes.Equal(b.names[end].Bytes(), b.names[at].Bytes()) {
			end++
		}
		var scratch [ctlSize]byte
		b.packMessages(at, end, f.client.Bytes(), u.sourceControl(f, &b.names[at], scratch[:0]), f.gso)
		at = end
	}
	for at := 0; at < b.outN; {
		n, err := mmsg(unix.SYS_SENDMMSG, u.host, b.out[at:b.outN])
		f := b.flows[b.next]
		switch {
		case n > 0:
			at += n
			u.outStall.delay = 0
		case noRoom(err):
			u.outStall.begin(u.now)
			return false
		case b.outEnd[at]-b.next > 1:
			f.gso = 0 // this way cannot do it: one by one, from here on
			return true
		case err == unix.EINVAL && f.from.n > 0:
			f.from.n = 0 // not one of our addresses: a broadcast's, or gone
			return true
		default: // the service cannot be told
			u.noteLost(b.outEnd[at]-b.next, lostOutside, err)
			at++
		}
		b.next = b.outEnd[at-1]
	}
	return true
}

// sourceControl is the control message for an answer that came from source inside: the
// address that the client asked, or another one if the service says so. Where it
// does not say, the kernel takes the client's own (IPv4) or ::1 (IPv6) inside.
func (u *udp) sourceControl(f *flow, source *sockaddr.Raw, b []byte) []byte {
	ip, client := source.IP(), f.client.IP()
	switch {
	case !ip.IsValid(), ip == f.inner.IP(), ip == client.Unmap(), ip == netip.IPv6Loopback(), ip.IsLinkLocalUnicast():
		return f.from.bytes()
	case u.family == unix.AF_INET:
		return appendFrom4(b, ip)
	}
	return appendFrom6(b, ip, 0)
}

// returnBatch gives back what is empty.
func returnBatch(b **batch) {
	if *b != nil && !(*b).isPending() {
		(*b).flows = [batchSize]*flow{}
		batches.Put(*b)
		*b = nil
	}
}
