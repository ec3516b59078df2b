package udprelay

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
	"activator/internal/spec"
)

// Program is a program that has bound sockets of its own in its network. Its
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
type ProgramRelay struct {
	udp
	program Program
	gone    int // Queue.Gone when the last batch was sent
	read    int // how many datagrams of the batch the program has read
	looks   int // in a row, that have found the batch unread
	period  int // counts the times that it has read everything, or was seen to be gone
	leave   atomic.Bool
	left    chan struct{} // closed when nothing is on its way in any more
	over    sync.Once     // closes left
}

// mostTries is how many programs may end with a datagram: it may be what ends them.
const mostTries = 3

// OpenProgramRelay relays what comes to host, a bound UDP socket, lent for the call as for
// [OpenSocketRelay].
func OpenProgramRelay(host *os.File, program Program, o Options) (*ProgramRelay, error) {
	r, err := newRelay(host, o)
	if err != nil {
		return nil, err
	}
	if r.family == unix.AF_UNIX {
		return nil, r.failOpening(unix.EAFNOSUPPORT)
	}
	r.flows.makeSockets = program.MakeSockets
	p := &ProgramRelay{udp: udp{relay: r}, program: program, left: make(chan struct{})}
	p.inside = p
	r.begin(p)
	return p, nil
}

// Leave says that nothing more is to be taken off the host's queue. Answers are
// carried on until Run ends. Any goroutine may call it, but not while another one calls Close.
func (p *ProgramRelay) Leave() {
	p.leave.Store(true)
	p.AskQueue()
}

// Left is closed when, after Leave, everything that was taken has been read, or the
// program is gone.
func (p *ProgramRelay) Left() <-chan struct{} { return p.left }

// setLeft says that nothing is on its way in, and what comes is the next relay's.
func (p *ProgramRelay) setLeft() {
	p.hostReady = false
	p.over.Do(func() { close(p.left) })
}

// holdsUnread reports whether a part of the batch was sent and may not have been read.
func (p *ProgramRelay) holdsUnread() bool { return p.in != nil && p.in.next > p.read }

// keepTime has a program that may have read its queue by now looked at when a client
// waits: the first look would be late for that one.
func (p *ProgramRelay) keepTime() {
	if p.hostReady && p.inStall.delay <= shortestStall {
		p.inStall.shorten(p.now)
	}
}

// carryIn carries a batch to the program, when it has read the one before.
func (p *ProgramRelay) carryIn() error {
	q, err := p.program.ReadQueue()
	if noRoom(err) {
		p.inStall.begin(p.now)
		return nil
	}
	if err != nil {
		return err
	}
	p.creditRead(q)
	switch holds := p.in != nil && p.in.isPending(); {
	case !q.There:
		p.awaitProgram(holds)
		return nil
	case p.holdsUnread() && !holds:
		p.awaitRead()
		return nil
	case holds:
	case p.leave.Load():
		p.setLeft()
		return nil
	case !p.hostReady:
		return nil
	default:
		p.read = 0
		if more, err := p.takeBatch(); !more || err != nil {
			return err
		}
	}
	_, err = p.forwardBatch(q.Room, q.Unread == 0)
	if p.holdsUnread() && p.inStall.until == 0 {
		p.inStall.begin(p.now) // to see that it is read
	}
	return err
}

// creditRead takes in what the program has read, or that it has closed the socket that
// it was sent to.
func (p *ProgramRelay) creditRead(q spec.Queue) {
	if p.holdsUnread() {
		switch {
		case !q.There || q.Gone != p.gone:
			p.takeBack()
		case q.Unread == 0:
			p.read = p.in.next
			p.period++
			p.looks = 0
		}
	}
	p.gone = q.Gone
}

// mostLooks is how often, and pause for how long, the program has the time to read a
// batch while the next one waits; a timer of the runtime is a millisecond late.
const (
	mostLooks = 20
	pause     = 50 * time.Microsecond
)

// awaitRead waits for the program to read.
func (p *ProgramRelay) awaitRead() {
	if p.looks++; !p.hostReady || p.looks > mostLooks {
		p.inStall.begin(p.now)
		return
	}
	_, _ = fd.Poll(p.poll.fd, unix.POLLIN, pause)
}

// awaitProgram waits for the program to bind the address again, if a client does.
func (p *ProgramRelay) awaitProgram(holds bool) {
	switch {
	case p.leave.Load():
		p.setLeft()
	case holds || len(p.first) > 0 || isReadable(p.host):
		p.inStall.begin(p.now)
	default:
		p.hostReady = false
	}
}

func isReadable(socket int) bool {
	events, err := fd.Poll(socket, unix.POLLIN, 0)
	return events != 0 || err != nil
}

// findRoom is how much the program's queue may take.
func (p *ProgramRelay) findRoom() (n int, empty bool, err error) {
	q, err := p.program.ReadQueue()
	return q.Room, q.Unread == 0, err
}

// noteSent notes that the next datagrams are sent for f, whose answers from now on count for
// them.
func (p *ProgramRelay) noteSent(f *flow, end int) {
	if f.period != p.period {
		f.period, f.answers = p.period, 0
	}
	for i := p.in.next; i < end; i++ {
		p.in.flows[i] = f
	}
}

// takeBack makes what was sent and not read the next to be sent. What has been
// answered since had been read.
func (p *ProgramRelay) takeBack() {
	b := p.in
	for i := p.read; i < b.next; i++ {
		f := b.flows[i]
		switch {
		case b.done[i]:
		case f != nil && f.period == p.period && f.answers > 0:
			f.answers--
			b.done[i] = true
		default:
			if b.tries[i]++; b.tries[i] >= mostTries {
				b.done[i] = true
				p.noteLost(1, lostEnds, nil)
			}
		}
	}
	b.next = p.read
	p.period++
}

func (p *ProgramRelay) findTarget(f *flow) bool {
	to, own := p.program.FindAddress(f.client.IP(), f.asks)
	if !to.IsValid() {
		return false
	}
	inner := sockaddr.Inet(to.Addr(), to.Port(), sockaddr.Loopback)
	if f.fd >= 0 && (own != f.own || inner.Family() != f.inner.Family()) {
		return false
	}
	f.inner, f.own = inner, own
	return true
}

// bindFlow gives a flow socket the client's own address if it can be. The port of the
// program itself is no client's: what is bound to it is the program.
func (p *ProgramRelay) bindFlow(f *flow) error {
	ip, port := f.client.IP().Unmap(), f.client.Port()
	if !f.own {
		ip, port = loopbackOf(f.inner.Family() == unix.AF_INET), 0
	}
	if port == f.inner.Port() {
		port = 0
	}
	return p.bindTo(f, sockaddr.Inet(ip, port, sockaddr.Loopback))
}

// carryOut also has the program looked at if a client waits: it has read what it answers.
func (p *ProgramRelay) carryOut() error {
	err := p.udp.carryOut()
	if p.hostReady && p.holdsUnread() {
		p.inStall.shorten(p.now)
	}
	return err
}

func (p *ProgramRelay) prepareWait() {
	if !p.holdsUnread() {
		returnBatch(&p.in)
	}
	returnBatch(&p.out)
}

// finishRun carries what a program that is gone has answered.
func (p *ProgramRelay) finishRun() {
	defer p.prepareWait()
	for p.outStall.until == 0 {
		p.poll.lookForEvents(0)
		p.noteEvents()
		if len(p.flows.ready) == 0 && (p.out == nil || !p.out.isPending()) || p.carryOut() != nil {
			return
		}
	}
}

func (p *ProgramRelay) close() (unread []datagram, err error) {
	if p.holdsUnread() {
		p.takeBack()
	}
	return p.in.appendUnsent(nil), nil
}
