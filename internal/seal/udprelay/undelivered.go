package udprelay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Undelivered are the datagrams that a relay has taken off the queue of a host's socket and
// that no program has read. A relay leaves them here when it is closed, and the next one of
// the same socket begins with them; so it lives as long as the socket. The zero value is
// empty. Its methods may be called from several goroutines, and of nil, which keeps nothing.
type Undelivered struct {
	mu  sync.Mutex
	all []datagram
}

// datagram is one that was taken off the host's queue.
type datagram struct {
	name   rawAddr // of the client
	sender sender  // unix: who that is
	ctl    []byte  // UDP: which address of the host was asked
	data   []byte
	tries  int       // how many programs have ended with it
	since  time.Time // it is here
}

// Any reports whether somebody waits for a program here, and not at the socket.
func (u *Undelivered) Any() bool {
	if u == nil {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.all) > 0
}

// Expire forgets what has been here for longer than hold, 0: nothing, and returns how much
// that was.
func (u *Undelivered) Expire(hold time.Duration) int {
	if u == nil || hold <= 0 {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	before := len(u.all)
	u.all = slices.DeleteFunc(u.all, func(one datagram) bool { return time.Since(one.since) > hold })
	return before - len(u.all)
}

func (u *Undelivered) put(all []datagram) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for i := range all {
		all[i].since = now
	}
	u.all = append(u.all, all...)
}

// take takes all of them out.
func (u *Undelivered) take() []datagram {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.all
	u.all = nil
	return all
}

// load makes datagrams the next to be sent, and returns those that have no room.
func (b *batch) load(all []datagram) (rest []datagram) {
	n := min(len(all), batchSize)
	for i, one := range all[:n] {
		b.names[i], b.tries[i] = one.name, one.tries
		b.in[i].n = uint32(copy(b.data[i*slotSize:][:longest], one.data))
		b.in[i].SetControllen(copy(b.ctl[i][:], one.ctl))
	}
	b.n = n
	return all[n:]
}

// keep leaves what no program has read for the next relay, in the order in which it came. The
// flows are still there.
func (d *relay) keep() {
	if d.options.Undelivered == nil {
		return
	}
	all := d.readInner()
	if d.unread() {
		d.takeBack()
	}
	if b := d.in; b != nil {
		for i := b.next; i < b.n; i++ {
			if !b.done[i] {
				all = append(all, datagram{name: b.names[i], tries: b.tries[i],
					ctl: bytes.Clone(b.control(i)), data: bytes.Clone(b.data[i*slotSize:][:b.in[i].n])})
			}
		}
	}
	if d.gram.held != nil {
		all = append(all, datagram{name: d.gram.to.client, sender: d.gram.to.sender, data: bytes.Clone(d.gram.held)})
		d.gram.held = nil
	}
	d.options.Undelivered.put(append(all, d.first...))
	d.first = nil
}

// The most that is read out of an inner socket: a service that still has it may go on
// sending to it.
const (
	mostInner      = 1 << 14
	mostInnerBytes = 64 << 20
)

// readInner takes what lies in the queue of the inner socket: with the flows goes the way to
// answer it. What a service has done to the socket does not keep its queue from being read,
// but a unix one that was connected and is not any more has lost it, unix_dgram_disconnected.
func (d *relay) readInner() (all []datagram) {
	if d.inner == nil {
		return nil
	}
	_ = unix.SetsockoptInt(d.innerFD, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	if d.family != unix.AF_UNIX {
		// Several that came as one are told apart by a control message, udp(7).
		_ = unix.SetsockoptInt(d.innerFD, unix.SOL_UDP, unix.UDP_GRO, 1)
	}
	var buffer []byte
	var ctl [1024]byte
	var flows map[string]*flow
	for size, errs := 0, 0; len(all) < mostInner && size < mostInnerBytes; {
		var name rawAddr
		text, n, err := readUnix(d.innerFD, &buffer, &name, ctl[:])
		switch {
		case err == unix.EAGAIN || err != nil && errs == 10:
			return all
		case err != nil:
			errs++ // it was pending
			continue
		}
		if flows == nil {
			flows = d.flowsInside()
		}
		one := d.sentBy(&name, flows[insideKey(&name)])
		segment := len(text)
		if p := control(ctl[:n], unix.SOL_UDP, unix.UDP_GRO); len(p) >= 4 {
			segment = max(int(binary.NativeEndian.Uint32(p)), 1)
		}
		size += len(text)
		for {
			one.data = bytes.Clone(text[:min(segment, len(text))])
			all = append(all, one)
			if text = text[len(one.data):]; len(text) == 0 {
				break
			}
		}
	}
	return all
}

// flowsInside returns the flows by the address that a program sees.
func (d *relay) flowsInside() map[string]*flow {
	flows := make(map[string]*flow, len(d.byClient))
	for _, f := range d.byClient {
		if a, err := localAddr(f.fd); err == nil {
			flows[insideKey(&a)] = f
		}
	}
	return flows
}

// insideKey is an address inside, whichever family the socket is of that tells it.
func insideKey(a *rawAddr) string {
	if ip := a.ip(); ip.IsValid() {
		return netip.AddrPortFrom(ip.Unmap(), a.port()).String()
	}
	text, _ := a.path()
	return string(text)
}

// sentBy is a datagram of the client of f. Without flow, which has expired, a client of UDP
// has the address that it has inside; one of a unix socket cannot be answered.
func (d *relay) sentBy(inside *rawAddr, f *flow) datagram {
	switch {
	case f != nil:
		return datagram{name: f.client, sender: f.sender, ctl: bytes.Clone(f.asked[:f.askN])}
	case d.family == unix.AF_UNIX:
		return datagram{sender: sender{pid: -1, uid: -1, gid: -1}}
	}
	return datagram{name: *inside}
}
