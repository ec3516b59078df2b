package udprelay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"
)

// inbound carries a batch from the host's queue to the relay socket, or what is left
// of the last one.
func (d *relay) inbound() error {
	d.inStall.until = 0
	if d.in == nil || !d.in.holds() {
		if more, err := d.takeBatch(); !more || err != nil {
			return err
		}
	}
	room, empty, err := d.room()
	if err != nil {
		return err
	}
	return d.forward(d.in, room, empty)
}

// fatal: the descriptor is not what it should be.
func fatal(err error) bool {
	return err == unix.EBADF || err == unix.ENOTSOCK || err == unix.EINVAL || err == unix.EFAULT || err == unix.ENOSYS
}

// longestInside is the longest segment on the way inside: the MTU of lo is
// 64 KiB.
const longestInside = 16 << 10

// forward sends what b holds, while there is room for it inside.
func (d *relay) forward(b *batch, room int, empty bool) error {
	for b.holds() {
		if b.done[b.next] {
			b.next++
			continue
		}
		f := d.flowOf(b)
		if f == nil { // and so it was told
			b.done[b.next] = true
			b.next++
			continue
		}
		end, cost := d.fitting(b, room)
		if end == b.next && !empty {
			var err error
			if room, empty, err = d.room(); err != nil {
				return err
			}
			if end, cost = d.fitting(b, room); end == b.next && !empty {
				d.inStall.begin(d.now)
				return nil
			}
		}
		room, empty = room-cost, false
		if end == b.next { // an empty queue takes any one
			end, room = end+1, 0
		}
		d.touch(f, d.now, d.grain())
		d.owe(b, f, end)
		b.outN = 0
		b.pack(b.next, end, f.way(), nil, longestInside)
		if !d.sendInside(b, f) {
			return nil
		}
	}
	return nil
}

// fitting counts the next datagrams of one client that there is room for: up to
// before end, at cost.
func (d *relay) fitting(b *batch, room int) (end, cost int) {
	for end = b.next; end < b.n && !b.done[end] && (end == b.next || d.sameClient(b, end)); end++ {
		c := charge(int(b.in[end].n))
		if cost+c > room {
			break
		}
		cost += c
	}
	return end, cost
}

// sendInside sends what is packed; false: there is no room now.
func (d *relay) sendInside(b *batch, f *flow) bool {
	again := false
	for at := 0; at < b.outN; {
		n, err := mmsg(unix.SYS_SENDMMSG, f.fd, b.out[at:b.outN])
		switch {
		case n > 0:
			at += n
			d.inStall.delay, d.sent = 0, true
		case err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM:
			d.inStall.begin(d.now)
			return false
		case err == unix.ECONNREFUSED && !again:
			again = true               // of an earlier one: the service was connected to another client
			if d.carry.inside == nil { // else it is sent again, see takeBack
				d.lose(1, lostRefused, err)
			}
			continue
		default: // nothing that this one could be sent as
			d.lose(b.outEnd[at]-b.next, lostInside, err)
			at++
		}
		b.next = b.outEnd[at-1]
	}
	return true
}

// charge is at least what a datagram takes of a receive buffer: truesize, struct
// sk_buff and its data, which the kernel rounds up to a power of two.
func charge(n int) int { return 1280 + 2*n }

// room is how much the inner queue may take, in bytes of its receive buffer. Half
// of it stays free: what is on its way is not counted yet, and a datagram that
// finds it full is lost. An empty queue takes one datagram of any size,
// __udp_enqueue_schedule_skb.
func (d *relay) room() (room int, empty bool, err error) {
	if d.carry.inside != nil {
		q, err := d.carry.inside.ReadQueue()
		return q.Room, q.Unread == 0, err
	}
	used, buffer, err := d.lookInside()
	return buffer/2 - used, used == 0, err
}

// sameClient reports whether datagram i is from the same client to the same
// address as the next one.
func (d *relay) sameClient(b *batch, i int) bool {
	return bytes.Equal(b.names[i].bytes(), b.names[b.next].bytes()) &&
		(!d.wildcard || bytes.Equal(b.control(i), b.control(b.next)))
}

// control is what came with datagram i.
func (b *batch) control(i int) []byte { return b.ctl[i][:min(int(b.in[i].Controllen), ctlSize)] }

// flowOf returns the flow of the next datagram, a new one where its client is
// new; nil: the datagram is to be dropped.
func (d *relay) flowOf(b *batch) *flow {
	name, asked := &b.names[b.next], b.control(b.next)
	if f := d.byClient[string(name.bytes())]; f != nil {
		if d.wildcard && !bytes.Equal(f.asked[:f.askN], asked) {
			d.ask(f, asked)
		}
		if d.carry.inside == nil || d.aim(f) {
			return f
		}
		d.drop(f)
	}
	f := d.newFlow(name, asked)
	if f == nil {
		return nil
	}
	if err := d.open(f); err != nil {
		d.refuse(err)
		return nil
	}
	return f
}

// refuse drops a datagram whose flow cannot be had.
func (d *relay) refuse(err error) {
	if errors.Is(err, errFull) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		d.lose(1, lostFull, nil)
	} else {
		d.lose(1, lostFlow, err)
	}
}

// newFlow is the flow of a new client, without a socket; nil where a client has
// no address that could be answered: port or address 0, or our own, which would
// be an endless loop.
func (d *relay) newFlow(name *rawAddr, asked []byte) *flow {
	ip := name.ip().Unmap()
	if !ip.IsValid() || ip.IsUnspecified() || ip.IsMulticast() || name.port() == 0 {
		d.lose(1, lostNowhere, nil)
		return nil
	}
	f := &flow{fd: -1, node: -1, client: *name, key: string(name.bytes()), gso: longestOutside, burst: 4}
	f.asks = d.self.ip().Unmap()
	f.inner = inetAddr(f.asks, d.self.port(), loopback)
	if d.wildcard {
		d.ask(f, asked)
	}
	if f.inner.ip() == ip && name.port() == d.self.port() {
		d.lose(1, lostNowhere, nil)
		return nil
	}
	if d.carry.inside != nil && !d.aim(f) {
		d.lose(1, lostUnheard, nil)
		return nil
	}
	return f
}

// open gives f its socket, bound to the client's own address and watched.
func (d *relay) open(f *flow) error {
	if !d.hasRoom() {
		return errFull
	}
	a := inetAddr(f.client.ip().Unmap(), f.client.port(), loopback)
	if d.carry.inside != nil {
		a = f.stands()
	}
	fd, err := d.take(a.family())
	if err != nil {
		return err
	}
	f.fd = fd
	err = d.bindFlow(f, &a)
	if err == nil && !d.wildcard && d.carry.inside == nil {
		// Saves a look at the routes for each datagram. Answers of a wildcard come
		// from another address.
		err = connect(fd, &f.inner)
		f.connected = true
	}
	if err == nil {
		d.table.add(f)
		d.share.Take(1)
		f.last = d.now
		if err = d.watch(fd, f.slot, f.generation, unix.EPOLLIN); err != nil {
			d.drop(f)
		}
		return err
	}
	_ = unix.Close(fd)
	return &stepError{"flow at " + a.String(), err}
}

// way is where to send inside; nil: the socket is connected.
func (f *flow) way() *rawAddr {
	if f.connected {
		return nil
	}
	return &f.inner
}

// bindFlow binds a flow socket to the client's address. It may be taken inside:
// by a client of the same link-local address on another link (then this one is
// seen with another port), or, with the port of the service itself, by the
// wildcard (then SO_REUSEADDR, which the inner socket has, lets both have it, and
// the more exact one gets what is sent to it). The latter is not for an address
// of our own host: other clients ask that one.
func (d *relay) bindFlow(f *flow, a *rawAddr) error {
	err := bind(f.fd, a)
	if err != unix.EADDRINUSE {
		return err
	}
	if d.wildcard && a.port() == d.self.port() && !ownAddress(f.client) {
		if err := unix.SetsockoptInt(f.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return err
		}
		if err = bind(f.fd, a); err != unix.EADDRINUSE {
			return err
		}
	}
	a.setPort(0)
	return bind(f.fd, a)
}

// ownAddress reports whether a client's address is one of the host's: only those
// can be bound.
func ownAddress(a rawAddr) bool {
	a.setPort(0)
	fd, err := unix.Socket(a.family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return true
	}
	defer unix.Close(fd)
	return bind(fd, &a) != unix.EADDRNOTAVAIL
}

// broadcast is the limited one, ip(7).
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// ask notes which address of the host the client asked: answers leave from it,
// and the service that looks (IP_PKTINFO) sees it.
func (d *relay) ask(f *flow, asked []byte) {
	f.askN = copy(f.asked[:], asked)
	f.fromN = 0
	ip := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var from []byte
	var link uint32
	if p := control(asked, unix.SOL_IP, unix.IP_PKTINFO); len(p) >= unix.SizeofInet4Pktinfo {
		// ipi_spec_dst is ours for a broadcast, too; of what was queued before we
		// asked for it there is only ipi_addr. ip(7), ipv4_pktinfo_prepare
		if ip = netip.AddrFrom4([4]byte(p[4:])); ip.IsUnspecified() {
			ip = netip.AddrFrom4([4]byte(p[8:]))
		}
		from = appendFrom4(f.from[:0], ip)
	} else if p := control(asked, unix.SOL_IPV6, unix.IPV6_PKTINFO); len(p) >= unix.SizeofInet6Pktinfo {
		ip = netip.AddrFrom16([16]byte(p))
		if ip.IsLinkLocalUnicast() {
			link = binary.NativeEndian.Uint32(p[16:])
		}
		from = appendFrom6(f.from[:0], ip, link)
	} else if f.client.ip().Is6() && !f.client.ip().Is4In6() {
		ip = netip.IPv6Loopback()
	}
	if four := ip.Unmap(); four.IsMulticast() || four == broadcast {
		from = nil
		if ip = netip.IPv6Loopback(); four.Is4() {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	f.fromN = len(from)
	f.asks = ip.Unmap()
	f.inner = inetAddr(f.asks, d.self.port(), loopback)
}

// appendFrom4 appends the control message that sends from ip, ip(7).
func appendFrom4(b []byte, ip netip.Addr) []byte {
	at := len(b) + unix.CmsgLen(0)
	b = appendControl(b, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	*(*[4]byte)(b[at+4:]) = ip.As4()
	return b
}

// appendFrom6 is for IPv6 sockets, ip may be 4in6; link only for link-local ones.
func appendFrom6(b []byte, ip netip.Addr, link uint32) []byte {
	at := len(b) + unix.CmsgLen(0)
	b = appendControl(b, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	*(*[16]byte)(b[at:]) = ip.As16()
	binary.NativeEndian.PutUint32(b[at+16:], link)
	return b
}

// longestOutside is the longest segment on the way to a client, where somebody's
// network card may have to do it, and an MTU of 1500 is to be expected.
const longestOutside = 1472

// outbound carries a batch of answers to their clients.
func (d *relay) outbound() error {
	d.outStall.until = 0
	if d.out == nil {
		d.out = d.borrowBatch()
	}
	b := d.out
	if !b.holds() {
		b.reset()
		for len(d.ready) > 0 && b.n < batchSize {
			d.gather(b)
		}
	}
	for b.holds() && d.answer(b) {
	}
	return nil
}

// gather takes answers from the first ready flow.
func (d *relay) gather(b *batch) {
	f, first := d.ready[0], b.n
	most := min(f.burst, batchSize-b.n)
	n, err := b.receive(f.fd, most, d.wildcard, false)
	if err == unix.ECONNREFUSED && d.carry.inside == nil { // the answer from inside: nobody was there
		d.lose(1, lostRefused, err)
	}
	again := n == most || err != nil && err != unix.EAGAIN // an ICMP error: read on
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
		d.touch(f, d.now, d.grain())
	}
	d.rest(again)
}

// answer sends what it can of b; false: there is no room now.
func (d *relay) answer(b *batch) bool {
	b.outN = 0
	for at := b.next; at < b.n; {
		f, end := b.flows[at], at+1
		for end < b.n && b.flows[end] == f && (!d.wildcard || bytes.Equal(b.names[end].bytes(), b.names[at].bytes())) {
			end++
		}
		var scratch [ctlSize]byte
		b.pack(at, end, &f.client, d.from(f, &b.names[at], scratch[:0]), f.gso)
		at = end
	}
	for at := 0; at < b.outN; {
		n, err := mmsg(unix.SYS_SENDMMSG, d.host, b.out[at:b.outN])
		f := b.flows[b.next]
		switch {
		case n > 0:
			at += n
			d.outStall.delay = 0
		case err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM:
			d.outStall.begin(d.now)
			return false
		case b.outEnd[at]-b.next > 1:
			f.gso = 0 // this way cannot do it: one by one, from here on
			return true
		case err == unix.EINVAL && f.fromN > 0 && d.wildcard:
			f.fromN = 0 // not one of our addresses: a broadcast's, or gone
			return true
		default: // the service cannot be told
			d.lose(b.outEnd[at]-b.next, lostOutside, err)
			at++
		}
		b.next = b.outEnd[at-1]
	}
	return true
}

// from is the control message for an answer that came from source inside: the
// address that the client asked, or another one if the service says so. Where it
// does not say, the kernel takes the client's own (IPv4) or ::1 (IPv6) inside.
func (d *relay) from(f *flow, source *rawAddr, b []byte) []byte {
	if !d.wildcard {
		return nil
	}
	ip, client := source.ip(), f.client.ip()
	if d.carry.inside != nil || ip == f.inner.ip() || ip == client.Unmap() || ip == netip.IPv6Loopback() || !ip.IsValid() || ip.IsLinkLocalUnicast() {
		return f.from[:f.fromN]
	}
	if d.family == unix.AF_INET {
		return appendFrom4(b, ip)
	}
	return appendFrom6(b, ip, 0)
}

func (d *relay) borrowBatch() *batch {
	if b, ok := batches.Get().(*batch); ok {
		return b
	}
	return newBatch()
}

// returnBatches gives back what is empty.
func (d *relay) returnBatches() {
	for _, b := range []**batch{&d.in, &d.out} {
		if *b != nil && !(*b).holds() && (b != &d.in || !d.unread()) {
			(*b).flows = [batchSize]*flow{}
			batches.Put(*b)
			*b = nil
		}
	}
}
