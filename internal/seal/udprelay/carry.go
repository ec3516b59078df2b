package udprelay

import (
	"errors"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// Program is the network of a program that has bound sockets of its own there. Its
// methods are called from the goroutine of Run.
type Program interface {
	// MakeSockets makes at least one and at most n datagram sockets of a domain, close-on-exec and
	// non-blocking, that may have any client's address. The caller closes them.
	MakeSockets(domain, n int) ([]int, error)
	// ReadQueue is what the program has not read yet.
	ReadQueue() (spec.Queue, error)
	// FindAddress is where to send the datagrams of a client that has asked an address of the
	// host, and whether they can have the client's own address. Not valid: nowhere.
	FindAddress(client, asked netip.Addr) (to netip.AddrPort, own bool)
}

// ProgramRelay carries datagrams between a UDP socket of the host and a program that has
// bound a socket of its own.
//
// A program's queue ends with it. So a batch stays here until the program has read
// it, and nothing more is taken off the host's queue until then. What a program has
// not read when it ends is [Undelivered], for the next one; what it has read and
// not answered between our last look and its end is among that, too: it may
// see a datagram twice, but no more than mostTries times.
type ProgramRelay struct{ *relay }

// OpenProgramRelay relays what comes to host, lent for the call as for [OpenSocketRelay].
func OpenProgramRelay(host *os.File, in Program, o Options) (*ProgramRelay, error) {
	d := newRelay(o)
	d.carry.inside, d.carry.left = in, make(chan struct{})
	err := d.adopt(host)
	if err == nil && d.family == unix.AF_UNIX {
		err = unix.EAFNOSUPPORT
	}
	if err = d.begin(err); err != nil {
		return nil, err
	}
	return &ProgramRelay{d}, nil
}

// mostTries is how many programs may end with a datagram: it may be what ends them.
const mostTries = 3

// carry is what is known of a program with sockets of its own.
type carry struct {
	inside Program // nil: there is an inner socket of ours
	gone   int     // Queue.Gone when the last batch was sent
	read   int     // how many datagrams of the batch the program has read
	glance int     // looks in a row that have found the batch unread
	round  int     // counts the times that it has read everything, or was seen to be gone
	leave  atomic.Bool
	heard  bool          // of leave
	left   chan struct{} // closed when nothing is on its way in any more
	away   bool          // it is
}

// Leave says that nothing more is to be taken off the host's queue. Answers are
// carried on until Run ends. Any goroutine may call it.
func (d *ProgramRelay) Leave() {
	if !d.carry.leave.Swap(true) && !d.closed.Load() {
		fd.EndNow(d.epoll.SetReadDeadline) // for Run
	}
}

// Left is closed when, after Leave, everything that was taken has been read, or the
// program is gone.
func (d *ProgramRelay) Left() <-chan struct{} { return d.carry.left }

// toldToLeave reports whether Leave was called and has not been heard.
func (c *carry) toldToLeave() bool { return !c.heard && c.leave.Load() }

// hurry has a program that may have read its queue by now looked at when a client
// comes: the first look would be late for him.
func (c *carry) hurry(s *stall, now time.Duration) {
	if c.inside != nil && s.until != 0 && s.delay <= shortestStall {
		s.until = now
	}
}

// unread reports whether a part of the batch was sent and may not have been read.
func (d *relay) unread() bool {
	return d.carry.inside != nil && d.in != nil && d.in.next > d.carry.read
}

// inboundCarried carries a batch to the program, when it has read the one before.
func (d *relay) inboundCarried() error {
	d.inStall.until = 0
	d.carry.heard = d.carry.leave.Load()
	q, err := d.carry.inside.ReadQueue()
	switch {
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		d.inStall.begin(d.now)
		return nil
	case err != nil:
		return err
	}
	d.credit(q)
	switch unread, holds := d.unread(), d.in != nil && d.in.holds(); {
	case !q.There:
		d.deaf(holds)
		return nil
	case unread && !holds:
		d.awaitRead()
		return nil
	case holds:
	case d.carry.heard:
		d.goAway()
		return nil
	case !d.hostReady:
		return nil
	default:
		if more, err := d.takeBatch(); !more || err != nil {
			return err
		}
	}
	err = d.forward(d.in, q.Room, q.Unread == 0)
	if d.unread() && d.inStall.until == 0 {
		d.inStall.begin(d.now) // to see that it is read
	}
	return err
}

// takeBatch takes a batch off the host's queue, or what was taken before; false: there is
// nothing.
func (d *relay) takeBatch() (bool, error) {
	if d.in == nil {
		d.in = d.borrowBatch()
	}
	d.in.reset()
	d.carry.read = 0
	if len(d.first) > 0 {
		d.first = d.in.load(d.first)
		return true, nil // and hostReady, as at the beginning
	}
	n, err := d.in.receive(d.host, batchSize, true, d.wildcard)
	switch {
	case err == unix.EAGAIN:
		d.hostReady = false
		return false, nil
	case err == unix.ENOMEM || err == unix.ENOBUFS:
		d.inStall.begin(d.now)
		return false, nil
	case fatal(err):
		return false, &stepError{"recvmmsg", err}
	case err != nil:
		return false, nil // an ICMP error of an earlier answer: the next call goes on
	}
	d.hostReady = n == batchSize
	return true, nil
}

// credit takes in what the program has read, or that it has closed the socket that
// it was sent to.
func (d *relay) credit(q spec.Queue) {
	c := &d.carry
	if d.unread() {
		switch {
		case !q.There || q.Gone != c.gone:
			d.takeBack()
		case q.Unread == 0:
			c.read = d.in.next
			c.round++
			c.glance = 0
		}
	}
	c.gone = q.Gone
}

// glances is how often, and glance for how long, the program has the time to read a
// batch while the next one waits; a timer of the runtime is a millisecond late.
const (
	glances = 20
	glance  = 50 * time.Microsecond
)

// awaitRead waits for the program to read.
func (d *relay) awaitRead() {
	if d.carry.glance++; !d.hostReady || d.carry.glance > glances {
		d.inStall.begin(d.now)
		return
	}
	_, _ = fd.Poll(d.epfd, unix.POLLIN, glance)
}

// deaf waits for the program to bind the address again, if a client does.
func (d *relay) deaf(holds bool) {
	switch {
	case d.carry.heard:
		d.goAway()
	case holds || len(d.first) > 0 || readable(d.host):
		d.inStall.begin(d.now)
	default:
		d.hostReady = false
	}
}

func readable(socket int) bool {
	events, err := fd.Poll(socket, unix.POLLIN, 0)
	return events != 0 || err != nil
}

// goAway says that nothing is on its way in.
func (d *relay) goAway() {
	if !d.carry.away {
		d.carry.away = true
		close(d.carry.left)
	}
}

// owe notes that the next datagrams up to before end are sent for f.
func (d *relay) owe(b *batch, f *flow, end int) {
	if d.carry.inside == nil {
		return
	}
	if f.round != d.carry.round {
		f.round, f.answers = d.carry.round, 0
	}
	for i := b.next; i < end; i++ {
		b.flows[i] = f
	}
}

// takeBack makes what was sent and not read the next to be sent. Whoever has been
// answered since had been read.
func (d *relay) takeBack() {
	b, c := d.in, &d.carry
	for i := c.read; i < b.next; i++ {
		f := b.flows[i]
		switch {
		case b.done[i]:
		case f != nil && f.round == c.round && f.answers > 0:
			f.answers--
			b.done[i] = true
		default:
			if b.tries[i]++; b.tries[i] >= mostTries {
				b.done[i] = true
				d.lose(1, lostEnds, nil)
			}
		}
	}
	b.next = c.read
	c.round++
}

// aim finds where f's datagrams go; false: nowhere, or not from where it stands.
func (d *relay) aim(f *flow) bool {
	to, own := d.carry.inside.FindAddress(f.client.ip(), f.asks)
	if !to.IsValid() {
		return false
	}
	inner := inetAddr(to.Addr(), to.Port(), loopback)
	if f.fd >= 0 && (own != f.own || inner.family() != f.inner.family()) {
		return false
	}
	f.inner, f.own = inner, own
	return true
}

// stands is the address of a flow to a program's own socket: the client's own if it
// can be. The port of the program itself is nobody else's: who is bound to it is the program.
func (f *flow) stands() rawAddr {
	ip, port := f.client.ip().Unmap(), f.client.port()
	if !f.own {
		ip, port = netip.IPv6Loopback(), 0
		if f.inner.family() == unix.AF_INET {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	if port == f.inner.port() {
		port = 0
	}
	return inetAddr(ip, port, loopback)
}

// outboundCarried carries answers, and has the program looked at if somebody waits: it
// has read what it answers.
func (d *relay) outboundCarried() error {
	err := d.outbound()
	if d.hostReady && d.unread() && d.inStall.until != 0 {
		d.inStall.until = d.now
	}
	return err
}

// lastWords carries what a program that is gone has answered.
func (d *relay) lastWords() {
	for d.carry.inside != nil && d.outStall.until == 0 {
		d.polled(0)
		d.note()
		if len(d.ready) == 0 && (d.out == nil || !d.out.holds()) {
			return
		}
		if d.outbound() != nil {
			return
		}
	}
}
