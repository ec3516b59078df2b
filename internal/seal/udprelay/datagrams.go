package udprelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/fd"
)

// Options of a relay; the zero value is the default.
type Options struct {
	Flows         int           // most clients at a time; 0: 16384, and never more than RLIMIT_NOFILE has room for
	Expire        time.Duration // how long a client may be silent; 0: 2 minutes
	ReceiveBuffer int           // bytes, of the inner socket; 0: twice the host's, net.core.rmem_max permitting
	UID, GID      int           // unix: whom answers are from, where we are root; 0: nobody
	Undelivered   *Undelivered  // of the host's socket: what comes first, and what is left in the end; nil: it is lost. Shared
	Log           *slog.Logger  // nil: says nothing
}

// ErrClosed is returned by what has been closed.
var ErrClosed = errors.New("relay closed")

const (
	defaultFlows  = 16384
	defaultExpire = 2 * time.Minute
)

// relay carries datagrams between a socket of the host and what is inside.
type relay struct {
	options Options
	name    string

	host     int     // our own descriptor of the host's open file description
	self     rawAddr // the host's address
	family   int
	wildcard bool // the clients may have asked different addresses of the host
	restore  []func()

	inner   *os.File // lent by File
	innerFD int      // its number, valid until Close
	node    int      // unix: O_PATH descriptor of the inner socket's node; -1: none
	target  rawAddr  // unix: what flow sockets connect to
	creds   []byte   // unix: SCM_CREDENTIALS of answers

	epoll   *os.File // in the runtime's poller
	epfd    int      // its number
	events  []unix.EpollEvent
	found   int // events
	pollErr error

	running sync.Mutex // held by Run, and by Close
	closed  atomic.Bool
	carried atomic.Uint64 // see Carried
	asked   atomic.Bool   // see Ask

	// Of the goroutine of Run.
	table
	share      budget.Share  // flow sockets and nodes
	spare      map[int][]int // flow sockets, unbound, by their domain
	in, out    *batch
	first      []datagram // of Options.Undelivered: before what the host's queue has
	carry      carry      // of [ProgramRelay]
	gram       gram       // unix
	sweep      sweep      // unix
	hostReady  bool
	start      time.Time
	now        time.Duration // since start, read once a round
	armed      time.Time     // the deadline of epoll
	inStall    stall
	outStall   stall
	noOrder    time.Duration // before that no flow sockets are made
	lost       lostLog
	innerDrops uint32        // of the inner socket, when it was looked at last
	sent       bool          // something to it since
	nextFull   time.Duration // before that it is not said that clients make room
	unanswered time.Duration // before that nobody is told of another client that is not answered
}

// stall is a direction that waits for room, which nobody announces.
type stall struct {
	until time.Duration // 0: none
	delay time.Duration // doubled each time, 0 once something has gone through
}

const (
	shortestStall = 200 * time.Microsecond
	longestStall  = 50 * time.Millisecond
)

func (s *stall) begin(now time.Duration) {
	s.delay = min(max(2*s.delay, shortestStall), longestStall)
	s.until = now + s.delay
}

// over reports whether there is no stall, or its time has come.
func (s *stall) over(now time.Duration) bool { return s.until == 0 || s.until <= now }

// String returns what is relayed: "relay udp 127.0.0.1:3000".
func (d *relay) String() string { return d.name }

// Run relays until ctx ends, which is no error, or Close. It wakes for nothing
// but datagrams, and a timer while there are flows. It may be called again: flows
// and what is on its way stay.
func (d *relay) Run(ctx context.Context) error {
	d.running.Lock()
	defer d.running.Unlock()
	if d.closed.Load() {
		return ErrClosed
	}
	conn, err := d.epoll.SyscallConn()
	if err != nil {
		return err
	}
	_ = d.epoll.SetReadDeadline(time.Time{}) // never: it is in the poller
	d.armed = time.Time{}
	defer fd.EndWith(ctx, d.epoll.SetReadDeadline)()
	polled := d.polled // allocated once
	d.hostReady = true // whoever came before is announced no more
	defer d.returnBatches()
	for {
		d.now = time.Since(d.start)
		d.hostReady = d.asked.Swap(false) || d.hostReady
		busy, err := d.round()
		if err == nil {
			err = d.collect(ctx, conn, polled, busy)
		}
		switch {
		case ctx.Err() != nil || d.closed.Load():
			d.lastWords()
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
}

// Ask has Run look at the host's queue once more: it is told of each datagram only once.
// Any goroutine may call it, but not while another one calls Close.
func (d *relay) AskQueue() {
	if !d.asked.Swap(true) && !d.closed.Load() {
		fd.EndNow(d.epoll.SetReadDeadline) // for Run
	}
}

// Carried changes with every datagram that is carried, either way. Any goroutine
// may ask.
func (d *relay) Carried() uint64 { return d.carried.Load() }

// touch notes that f carries something now.
func (d *relay) touch(f *flow, now, grain time.Duration) {
	d.carried.Add(1)
	d.table.touch(f, now, grain)
}

// round carries one batch each way, and reports whether there is more to do.
func (d *relay) round() (busy bool, err error) {
	d.expire()
	d.sweepInTime()
	d.tellLost(false)
	in, out := d.inbound, d.outbound
	switch {
	case d.family == unix.AF_UNIX:
		in, out = d.inboundUnix, d.outboundUnix
	case d.carry.inside != nil:
		in, out = d.inboundCarried, d.outboundCarried
	}
	if d.inStall.over(d.now) && (d.hostReady || d.inStall.until != 0) || d.carry.toldToLeave() {
		if err = in(); err != nil {
			return false, err
		}
	}
	// Among unix clients only those that are stuck wait.
	others := d.outStall.until == 0 || d.family == unix.AF_UNIX
	if others && len(d.ready) > 0 || d.outStall.until != 0 && d.outStall.over(d.now) {
		if err = out(); err != nil {
			return false, err
		}
	}
	return d.inStall.until == 0 && d.hostReady || others && len(d.ready) > 0, nil
}

// collect notes who is ready; if nothing is to be done meanwhile it waits for
// that, or for the time of whatever comes first. The runtime waits for the epoll
// itself to become readable, see epoll(7) on nesting.
func (d *relay) collect(ctx context.Context, conn syscall.RawConn, polled func(uintptr) bool, busy bool) error {
	if busy {
		d.polled(0)
	} else {
		d.seeDropped()
		d.arm(d.alarm())
		if ctx.Err() != nil || d.closed.Load() || d.asked.Load() || d.carry.toldToLeave() {
			return nil // after arm, which may have undone the call to wake up
		}
		d.returnBatches()
		err := conn.Read(polled)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			d.armed = time.Unix(1, 0) // has to be set anew
			return nil
		}
		if err != nil {
			return err
		}
	}
	if d.pollErr != nil {
		return os.NewSyscallError("epoll_wait", d.pollErr)
	}
	d.note()
	return nil
}

// note notes who is ready.
func (d *relay) note() {
	for i := range d.events[:max(d.found, 0)] {
		if e := &d.events[i]; e.Fd == hostSlot {
			d.hostReady = true
			d.carry.hurry(&d.inStall, d.now)
		} else if f := d.find(e.Fd, e.Pad); f != nil {
			d.wake(f)
			if e.Events&unix.EPOLLOUT != 0 && d.inStall.until != 0 {
				d.inStall.until = d.now // the queue inside has room
			}
		}
	}
}

// polled asks who is ready, as the runtime's poller wants it: true when done.
func (d *relay) polled(uintptr) bool {
	d.pollErr = fd.RetryEINTR(func() (err error) {
		d.found, err = unix.EpollWait(d.epfd, d.events, 0)
		return err
	})
	return d.found != 0 // -1 with an error
}

// alarm is the time of the next thing to do without a datagram; zero: nothing.
func (d *relay) alarm() time.Time {
	next := time.Duration(0)
	first := func(t time.Duration) {
		if next == 0 || t < next {
			next = t
		}
	}
	if d.oldest != nil && d.inStall.until == 0 {
		// Once for all that are due soon after.
		first(d.oldest.last + d.options.Expire + d.grain())
	}
	if d.crowded() {
		first(max(d.sweep.next, 1))
	}
	if d.inStall.until != 0 {
		first(d.inStall.until)
	}
	if d.outStall.until != 0 {
		first(d.outStall.until)
	}
	if told := d.lost.untilTold(); told != 0 && d.options.Log != nil {
		first(told)
	}
	if next == 0 {
		return time.Time{}
	}
	return d.start.Add(next)
}

// arm sets the deadline of epoll, if the one that it has would come too late. One that
// comes too early costs less than to set it anew for every datagram.
func (d *relay) arm(t time.Time) {
	if d.armed.Equal(t) || !d.armed.IsZero() && d.armed.After(d.start.Add(d.now)) && (t.IsZero() || t.After(d.armed)) {
		return
	}
	_ = d.epoll.SetReadDeadline(t)
	d.armed = t
}

// grain is how exactly flows expire.
func (d *relay) grain() time.Duration { return min(d.options.Expire/16, time.Second) }

// expire closes the flows of clients that were silent for so long.
func (d *relay) expire() {
	if d.inStall.until != 0 {
		return // they may wait in the queue inside
	}
	for f := d.oldest; f != nil && d.now-f.last >= d.options.Expire; f = d.oldest {
		if f.held == nil && answered(f) {
			d.wake(f)
			d.touch(f, d.now, 0)
			continue
		}
		d.drop(f)
	}
}

// answered reports whether an answer lies in the socket of f: it came in time,
// and we are late.
func answered(f *flow) bool {
	ready, _ := fd.Poll(f.fd, unix.POLLIN, 0)
	return ready&unix.POLLIN != 0
}

// drop ends a flow.
func (d *relay) drop(f *flow) {
	if f.held != nil {
		d.lose(1, lostExpired, nil)
	}
	d.forgetNode(f)
	d.remove(f)
	d.share.Give(1)
}

// watch puts a descriptor into the epoll, edge-triggered: each of them is read
// until it has no more.
func (d *relay) watch(fd int, slot, generation int32, events uint32) error {
	e := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: slot, Pad: generation}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(d.epfd, unix.EPOLL_CTL_ADD, fd, &e))
}

// hostSlot is the host's socket in an epoll event.
const hostSlot = -1

// Close ends Run and closes everything. Clients and their datagrams are
// forgotten; the host's socket stays as it was. Twice is fine.
func (d *relay) Close() error {
	if !d.closed.Swap(true) && d.epoll != nil {
		fd.EndNow(d.epoll.SetReadDeadline) // for Run
	}
	d.running.Lock()
	defer d.running.Unlock()
	d.keep()
	for d.oldest != nil {
		d.drop(d.oldest)
	}
	d.tellLost(true)
	for domain, fds := range d.spare {
		closeAll(fds)
		delete(d.spare, domain)
	}
	d.share.Close()
	for _, restore := range d.restore {
		restore()
	}
	d.restore = nil
	for _, fd := range []*int{&d.host, &d.node} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
	var err error
	for _, f := range []**os.File{&d.inner, &d.epoll} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	d.in, d.out = nil, nil
	return err
}

// silence is how long a client must have been silent to make room for a new one
// where the table is full. Only an answer that takes the service longer is lost by
// it: with his next datagram the client has a flow again, at the same address. So
// clients that ask once do not fill the table for the whole of Expire.
var silence = 3 * time.Second

// hasRoom reports whether there may be another flow, if need be in place of the
// one that was not used for longest.
func (d *relay) hasRoom() bool {
	if len(d.byClient) < d.options.Flows && (d.spares() > 0 || d.share.Room() > 0) {
		return true
	}
	if d.sweepForRoom() {
		return true
	}
	if d.oldest == nil || d.now-d.oldest.last < min(silence, d.options.Expire) {
		return false
	}
	if d.options.Log != nil && d.now >= d.nextFull {
		d.options.Log.Warn("the table of flows is full: the longest silent clients make room", "addr", d.self.String(), "flows", len(d.byClient))
		d.nextFull = d.now + lostEvery
	}
	d.drop(d.oldest)
	return true
}
