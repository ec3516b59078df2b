package udprelay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
)

// Options of a relay; the zero value is the default.
type Options struct {
	Expire      time.Duration // how long a client may be silent; 0: 2 minutes
	UID, GID    int           // unix: the user that answers are from, where we are root; 0: nobody
	Undelivered *Undelivered  // of the host's socket: what comes first, and what is left in the end; nil: it is lost. Shared
	Log         *slog.Logger  // nil: says nothing
}

// ErrClosed is returned by what has been closed.
var ErrClosed = errors.New("relay closed")

// relay is what all relays have in common: the host's socket, the flows, and the loop in which
// a carrier carries datagrams between the two.
type relay struct {
	options Options
	carrier carrier

	host     int          // our own descriptor of the host's open file description
	self     sockaddr.Raw // the host's address
	family   int
	wildcard bool     // the clients may have asked different addresses of the host
	restore  []option // of the host's socket, as they were
	poll     *poller

	running sync.Mutex // held by Run, and by Close
	closing sync.Once
	closed  atomic.Bool
	asked   atomic.Bool // see AskQueue

	// Of the goroutine of Run.
	flows     flowTable
	first     []datagram // of Options.Undelivered: before what the host's queue has
	hostReady bool
	start     time.Time
	now       time.Duration // since start, read once a round
	lastEvent time.Duration // of a socket; 0: none yet
	nextYield time.Duration
	crowded   bool // many datagrams came at once: they cost less if the loop wakes up later
	inStall   stall
	outStall  stall
	lost      lostLog
	nextFull  time.Duration // before that the log does not say that clients make room
}

// carrier carries the datagrams of one kind of relay. Its methods are called by Run, but
// for close.
type carrier interface {
	// carryIn carries what the host's queue has, or what is left of what was taken off it.
	carryIn() error
	// carryOut carries answers of the flows that are ready.
	carryOut() error
	// keepTime does what is due, and nextTime is when there is more of it; 0: never.
	keepTime()
	nextTime() time.Duration
	// prepareWait is called before the loop waits, and finish when it ends.
	prepareWait()
	finishRun()
	// close closes what the carrier has, and returns what no program has read, in the order
	// in which it came. The flows are still there.
	close() (unread []datagram, err error)
}

// stall is a direction that waits for room, which is not announced.
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

// isOver reports whether there is no stall, or its time has come.
func (s *stall) isOver(now time.Duration) bool { return s.until <= now }

// shorten has the time of a stall come now.
func (s *stall) shorten(now time.Duration) {
	if s.until != 0 {
		s.until = now
	}
}

// noRoom reports whether an error says that there is no room now.
func noRoom(err error) bool { return err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM }

// noteEmpty notes why nothing came off the host's queue, and returns any other error.
func (r *relay) noteEmpty(err error) error {
	switch {
	case err == unix.EAGAIN:
		r.hostReady = false
	case noRoom(err):
		r.inStall.begin(r.now)
	default:
		return err
	}
	return nil
}

// String returns what is relayed: "relay udp 127.0.0.1:3000".
func (r *relay) String() string {
	if r.family == unix.AF_UNIX {
		return "relay unixgram " + r.self.String()
	}
	return "relay udp " + r.self.String()
}

// Run relays until ctx ends, which is no error, or Close. It wakes for nothing
// but datagrams, and a timer while there are flows. It may be called again: flows
// and what is on its way stay.
func (r *relay) Run(ctx context.Context) error {
	r.running.Lock()
	defer r.running.Unlock()
	if r.closed.Load() {
		return ErrClosed
	}
	_ = r.poll.clearDeadline() // never fails: it is in the poller
	defer fd.AfterFunc(ctx, r.poll.interruptWait)()
	look, limit := r.poll.lookForEvents, r.sleepLimit // allocated once
	r.hostReady = true                                // what came before is announced no more
	defer r.carrier.finishRun()
	for {
		r.now = time.Since(r.start)
		if r.asked.Swap(false) {
			r.hostReady = true
			r.inStall.shorten(r.now)
		}
		busy, err := r.carryRound()
		if err == nil {
			err = r.collectEvents(ctx, look, limit, busy)
		}
		if r.now >= r.nextYield {
			// Other goroutines may wait for the processor: the scheduler would let a loop
			// that never sleeps go on for 10 ms.
			runtime.Gosched()
			r.nextYield = r.now + yieldEvery
		}
		switch {
		case ctx.Err() != nil || r.closed.Load():
			return nil
		case err != nil:
			return fmt.Errorf("%s: %w", r, err)
		}
	}
}

// AskQueue has Run look at the host's queue once more: it is told of each datagram only once.
// Any goroutine may call it, but not while another one calls Close.
func (r *relay) AskQueue() {
	if !r.asked.Swap(true) && !r.closed.Load() {
		r.poll.interruptWait() // for Run
	}
}

// Carried changes with every datagram that is carried, either way. Any goroutine
// may ask.
func (r *relay) Carried() uint64 { return r.flows.carried.Load() }

// carryRound carries one batch each way, and reports whether there is more to do.
func (r *relay) carryRound() (busy bool, err error) {
	r.expireFlows()
	r.carrier.keepTime()
	r.tellLost(false)
	if r.inStall.isOver(r.now) && (r.hostReady || r.inStall.until != 0) {
		r.inStall.until = 0
		if err = r.carrier.carryIn(); err != nil {
			return false, err
		}
	}
	if r.outStall.isOver(r.now) && (len(r.flows.ready) > 0 || r.outStall.until != 0) {
		r.outStall.until = 0
		if err = r.carrier.carryOut(); err != nil {
			return false, err
		}
	}
	return r.inStall.until == 0 && r.hostReady || r.outStall.until == 0 && len(r.flows.ready) > 0, nil
}

const (
	yieldEvery = 5 * time.Millisecond
	// linger is how long the loop keeps its thread when nothing comes any more: long enough for clients that
	// ask a few times a second. mostLingering is how many loops may.
	linger        = time.Second
	mostLingering = 64
)

// lingering is how many loops sleep with a thread of their own.
var lingering atomic.Int32

// sleepLimit is how long the loop may sleep with its thread, in milliseconds; 0: not at all.
func (r *relay) sleepLimit() int {
	now := time.Since(r.start)
	until := r.lastEvent + linger
	if due := r.nextDue(); due != 0 && due < until {
		until = due
	}
	return int(max(0, until-now+time.Millisecond-1) / time.Millisecond)
}

// lingerForEvents waits for events with the loop's thread; false: it has done so for long enough.
func (r *relay) lingerForEvents(limit func() int) bool {
	if r.crowded || r.lastEvent == 0 || r.now-r.lastEvent >= linger {
		return false
	}
	defer lingering.Add(-1)
	if lingering.Add(1) > mostLingering {
		return false
	}
	r.poll.park(false)
	r.poll.sleepForEvents(limit)
	r.now = time.Since(r.start)
	return r.poll.found > 0 || r.poll.err != nil || r.now-r.lastEvent < linger
}

// collectEvents notes which sockets are ready; if nothing is to be done meanwhile it waits for
// that, or for the time of whatever comes first.
func (r *relay) collectEvents(ctx context.Context, look func(uintptr) bool, limit func() int, busy bool) error {
	if busy {
		look(0)
	} else if !r.lingerForEvents(limit) {
		r.carrier.prepareWait()
		r.poll.park(true)
		r.poll.armDeadline(r.nextAlarm(), r.start.Add(r.now))
		if ctx.Err() != nil || r.closed.Load() || r.asked.Load() {
			return nil
		}
		err := r.poll.conn.Read(look)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			r.poll.armed = time.Unix(1, 0) // has to be set anew
			return nil
		}
		if err != nil {
			return err
		}
	}
	if r.poll.err != nil {
		return os.NewSyscallError("epoll_wait", r.poll.err)
	}
	r.noteEvents()
	return nil
}

// noteEvents notes which sockets are ready.
func (r *relay) noteEvents() {
	for _, e := range r.poll.events[:r.poll.found] {
		if e.Fd == wakeSlot {
			continue
		}
		r.lastEvent = r.now
		if e.Fd == hostSlot {
			r.hostReady = true
		} else if f := r.flows.findFlow(e.Fd, e.Pad); f != nil {
			r.flows.wakeFlow(f)
			if e.Events&unix.EPOLLOUT != 0 {
				r.inStall.shorten(r.now) // the queue inside has room
			}
		}
	}
}

// nextAlarm is the time of the next thing to do without a datagram; zero: nothing.
func (r *relay) nextAlarm() time.Time {
	if next := r.nextDue(); next != 0 {
		return r.start.Add(next)
	}
	return time.Time{}
}

// nextDue is nextAlarm on the clock of the relay; 0: never.
func (r *relay) nextDue() time.Duration {
	next := time.Duration(0)
	first := func(t time.Duration) {
		if t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	if r.inStall.until == 0 {
		first(r.flows.nextExpiry())
	}
	first(r.inStall.until)
	first(r.outStall.until)
	first(r.carrier.nextTime())
	first(r.lost.nextTime())
	return next
}

// expireFlows drops the flows of clients that were silent for too long.
func (r *relay) expireFlows() {
	if r.inStall.until != 0 {
		return // they may wait in the queue inside
	}
	for f := r.flows.nextExpired(r.now); f != nil; f = r.flows.nextExpired(r.now) {
		r.dropFlow(f)
	}
}

// dropFlow ends a flow.
func (r *relay) dropFlow(f *flow) {
	if f.held != nil {
		r.noteLost(1, lostExpired, nil)
	}
	r.flows.removeFlow(f)
}

// makeRoom reports whether there may be another flow, if need be in place of the one that
// was not used for longest.
func (r *relay) makeRoom() bool {
	if !r.flows.isFull() {
		return true
	}
	f := r.flows.replaceableFlow(r.now)
	if f == nil {
		return false
	}
	few := len(r.flows.byClient)/8 + 1 // of a small table not many
	if r.now >= r.nextFull {
		r.options.Log.Warn("the table of flows is full: the longest silent clients make room", "addr", r.self.String(), "flows", len(r.flows.byClient))
		r.nextFull = r.now + lostEvery
	}
	for n := 0; f != nil && n < min(few, mostReplaced); n++ {
		r.dropFlow(f)
		r.flows.vacated++
		f = r.flows.replaceableFlow(r.now)
	}
	return true
}

// openFlow gives f a flow socket, which bind gives an address, and watches it.
func (r *relay) openFlow(f *flow, domain int, bind func(*flow) error, events uint32) (err error) {
	if !r.makeRoom() {
		return errFull
	}
	if f.fd, err = r.flows.takeSocket(domain, r.now); err != nil {
		return err
	}
	if err = bind(f); err != nil {
		_ = unix.Close(f.fd)
		return fmt.Errorf("flow of %s: %w", f.client.String(), err)
	}
	r.flows.addFlow(f, r.now)
	if err = r.poll.watchSocket(f.fd, f.slot, f.generation, events); err != nil {
		r.dropFlow(f)
	}
	return err
}

// refuseClient drops a datagram whose flow cannot be had.
func (r *relay) refuseClient(err error) {
	if errors.Is(err, errFull) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		r.noteLost(1, lostFull, nil)
	} else {
		r.noteLost(1, lostFlow, err)
	}
}

// Close ends Run and closes everything. Clients are forgotten; what no program has read is
// [Undelivered], and the host's socket stays as it was. Twice is fine.
func (r *relay) Close() (err error) {
	r.closing.Do(func() {
		r.closed.Store(true)
		r.poll.interruptWait() // for Run
		r.running.Lock()
		defer r.running.Unlock()
		unread, closeErr := r.carrier.close()
		r.options.Undelivered.putAll(append(unread, r.first...))
		for f := r.flows.oldestFlow(); f != nil; f = r.flows.oldestFlow() {
			r.dropFlow(f)
		}
		r.tellLost(true)
		err = errors.Join(closeErr, r.releaseHost())
	})
	return err
}

// releaseHost closes what newRelay has opened.
func (r *relay) releaseHost() error {
	r.flows.close()
	for _, o := range r.restore {
		_ = o.set(r.host)
	}
	_ = unix.Close(r.host)
	return r.poll.close()
}
