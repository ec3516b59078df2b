package udprelay

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// Undelivered are the datagrams that a relay has taken off the queue of a host's socket and
// that no program has read. A relay leaves them here when it is closed, and the next one of
// the same socket begins with them; so it lives as long as the socket. The zero value is
// empty. Its methods may be called from several goroutines.
type Undelivered struct {
	mu  sync.Mutex
	all []datagram
}

// datagram is one that was taken off the host's queue.
type datagram struct {
	name   sockaddr.Raw // of the client
	sender sender       // unix: its process
	ctl    []byte       // UDP: which address of the host was asked
	data   []byte
	tries  int       // how many programs have ended with it
	since  time.Time // it is here
}

// Any reports whether a client waits for a program here, and not at the socket.
func (u *Undelivered) Any() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.all) > 0
}

// Expire forgets what has been here for longer than hold, 0: nothing, and returns how much
// that was.
func (u *Undelivered) Expire(hold time.Duration) int {
	if hold <= 0 {
		return 0
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	before := len(u.all)
	u.all = slices.DeleteFunc(u.all, func(one datagram) bool { return time.Since(one.since) > hold })
	return before - len(u.all)
}

func (u *Undelivered) putAll(all []datagram) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	for i := range all {
		all[i].since = now
	}
	u.all = append(u.all, all...)
}

// takeAll takes all of them out.
func (u *Undelivered) takeAll() []datagram {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.all
	u.all = nil
	return all
}

// loadUndelivered makes datagrams the next to be sent, and returns those that have no room.
func (b *batch) loadUndelivered(all []datagram) (rest []datagram) {
	n := min(len(all), batchSize)
	for i, one := range all[:n] {
		b.names[i], b.tries[i] = one.name, one.tries
		b.in[i].n = uint32(copy(b.data[i*slotSize:][:longest], one.data))
		b.in[i].SetControllen(copy(b.ctl[i][:], one.ctl))
	}
	b.n = n
	return all[n:]
}

// appendUnsent appends what the batch, if there is one, still holds.
func (b *batch) appendUnsent(all []datagram) []datagram {
	for i := 0; b != nil && i < b.n; i++ {
		if i >= b.next && !b.done[i] {
			all = append(all, datagram{name: b.names[i], tries: b.tries[i], ctl: bytes.Clone(b.controlOf(i)), data: bytes.Clone(b.textOf(i))})
		}
	}
	return all
}

// The most that is read out of a relay socket: a service that still has it may go on
// sending to it.
const (
	mostInner      = 1 << 14
	mostInnerBytes = 64 << 20
)

// readAll takes what lies in the queue of a relay socket: with the flows goes the way to
// answer it. What a service has done to the socket does not keep its queue from being read,
// but a unix one that was connected and is not any more has lost it, unix_dgram_disconnected. What
// the service has sent to it itself is dropped.
func (s *relaySocket) readAll(flows *flowTable, sentBy func(inside *sockaddr.Raw, f *flow) datagram) (all []datagram) {
	_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1)
	var buffer []byte
	var ctl [1024]byte
	var byAddress map[string]*flow
	for size, errs := 0, 0; len(all) < mostInner && size < mostInnerBytes; {
		var name sockaddr.Raw
		text, n, err := readUnix(s.fd, &buffer, &name, ctl[:])
		switch {
		case err == unix.EAGAIN || err != nil && errs == 10:
			return all
		case err != nil:
			errs++ // it was pending
			continue
		}
		if byAddress == nil {
			byAddress = flows.byAddress()
		}
		size += len(text)
		if s.isOwn(&name) {
			continue
		}
		one := sentBy(&name, byAddress[insideKey(&name)])
		segment := len(text)
		if p := findControl(ctl[:n], unix.SOL_UDP, unix.UDP_GRO); len(p) >= 4 {
			segment = max(int(binary.NativeEndian.Uint32(p)), 1)
		}
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

// byAddress returns the flows by the address that a program sees.
func (t *flowTable) byAddress() map[string]*flow {
	flows := make(map[string]*flow, len(t.byClient))
	for _, f := range t.byClient {
		if a, err := sockaddr.Local(f.fd); err == nil {
			flows[insideKey(&a)] = f
		}
	}
	return flows
}

// insideKey is an address inside, whichever family the socket is of that tells it.
func insideKey(a *sockaddr.Raw) string {
	if ip := a.IP(); ip.IsValid() {
		return netip.AddrPortFrom(ip.Unmap(), a.Port()).String()
	}
	text, _ := a.Path()
	return string(text)
}
