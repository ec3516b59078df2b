package tcpproxy

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
)

// Events of the epoll that belong to no connection have generation 0, and this slot
// or a route's number.
const wakeSlot = -1

const (
	copySize   = 64 << 10  // bytes read at once
	turnBytes  = 512 << 10 // what a direction may move before the others
	yieldEvery = 5 * time.Millisecond

	endingTick = 20 * time.Millisecond // how often connections are looked at that end with a reset
)

// loop is the state of Run's goroutine. Times are on its own clock, 0 is never.
type loop struct {
	began   time.Time
	now     time.Duration // since began, taken once a round
	leaving bool
	last    time.Duration // when connections are cut off; with leaving
	err     error

	slots    []*conn
	free     []*conn
	count    int
	freed    bool // a descriptor is free since the last look
	nextIdle time.Duration
	ending   []*conn
	nextEnd  time.Duration

	ready, turn []ready // directions that had to stop before the end of their data
	round       uint32
	waiter      epoll.Waiter
	nextYield   time.Duration
	pipes       pipes
	blocks      []*[copySize]byte // free
	buffer      []byte            // of copySize: what is read, and written right after
	events      []unix.EpollEvent
	callers     []*route // have clients
	shortage    notice
	refusal     notice
}

// ready is a direction that can move on.
type ready struct {
	c          *conn
	generation int32
	from       side
}

func (p *Proxy) runLoop() error {
	p.loop = loop{
		began:  time.Now(),
		buffer: make([]byte, copySize),
		events: make([]unix.EpollEvent, 256),
		pipes:  pipes{share: &p.share},
		waiter: epoll.Waiter{Epoll: p.epoll},
	}
	defer func() { p.loop = loop{} }()
	for _, r := range p.routes {
		r.forgetStall()
		p.watchRoute(r)
	}
	for !p.checkEnd() {
		n := p.waitForEvents()
		p.now = time.Since(p.began)
		p.round++
		for i := range p.events[:n] {
			p.dispatchEvent(&p.events[i])
		}
		for _, r := range p.callers {
			p.acceptFrom(r) // last: the clients may have sent something by now
		}
		p.callers = p.callers[:0]
		p.pumpReady()
		p.runTimers()
		if p.now >= p.nextYield {
			// Other goroutines may wait for the processor: the scheduler would let a loop
			// that never sleeps go on for 10 ms.
			runtime.Gosched()
			p.nextYield = p.now + yieldEvery
		}
	}
	for _, r := range p.routes {
		p.unwatchRoute(r)
		p.putPending(r)
	}
	p.cutAll()
	return p.err
}

// checkEnd reports whether Run is over. It begins the drain when ctx has ended.
func (p *Proxy) checkEnd() bool {
	if p.err != nil || p.quit.Load() {
		return true
	}
	if !p.leaving && p.leave.Load() {
		p.leaving, p.last = true, p.now+p.options.Drain
		for _, r := range p.routes {
			p.unwatchRoute(r)
			p.putPending(r)
		}
	}
	return p.leaving && (p.count == 0 || p.now >= p.last)
}

// waitForEvents fills events. It sleeps only if there is nothing to do.
func (p *Proxy) waitForEvents() int {
	n, e := p.waiter.Wait(p.events, p.nextTimeout)
	if e != 0 && e != unix.EINTR {
		p.err = stepError("epoll_wait", e)
	}
	return n
}

// nextTimeout returns how long nothing has to be done, in milliseconds; -1: for ever.
func (p *Proxy) nextTimeout() int {
	if len(p.ready) > 0 {
		return 0
	}
	next := p.nextIdle
	sooner := func(t time.Duration) {
		if t != 0 && (next == 0 || t < next) {
			next = t
		}
	}
	sooner(p.nextEnd)
	if p.leaving {
		sooner(p.last)
	}
	for _, r := range p.routes {
		sooner(r.again)
	}
	if next == 0 {
		return -1
	}
	left := next - time.Since(p.began)
	return int(max(0, (left+time.Millisecond-1)/time.Millisecond))
}

func (p *Proxy) dispatchEvent(e *unix.EpollEvent) {
	switch {
	case e.Pad != 0:
		if c := p.slots[e.Fd>>1]; c.generation == e.Pad {
			p.handleEvent(c, side(e.Fd&1), e.Events)
		}
	case e.Fd == wakeSlot:
		var count [8]byte
		_, _ = unix.Read(int(p.wake), count[:])
		p.freed = p.given.Swap(false) || p.freed
	default:
		p.callers = append(p.callers, p.routes[e.Fd])
	}
}

// pumpReady goes on with every direction that had to stop for the others.
func (p *Proxy) pumpReady() {
	p.ready, p.turn = p.turn[:0], p.ready
	for _, x := range p.turn {
		if x.c.generation == x.generation {
			x.c.half[x.from].queued = false
			p.pumpHalf(x.c, x.from)
		}
	}
	clear(p.turn)
}

// queueHalf lets the direction from s of c go on after the others.
func (p *Proxy) queueHalf(c *conn, s side) {
	if h := &c.half[s]; !h.queued {
		h.queued = true
		p.ready = append(p.ready, ready{c, c.generation, s})
	}
}

// runTimers does all that is due.
func (p *Proxy) runTimers() {
	if p.nextEnd != 0 && p.now >= p.nextEnd {
		p.resetDrained()
	}
	if p.nextIdle != 0 && p.now >= p.nextIdle {
		p.closeIdle()
	}
	for _, r := range p.routes {
		if r.again != 0 && (p.now >= r.again || p.freed && r.short) {
			p.retryRoute(r)
		}
		if p.freed {
			p.watchRoute(r)
		}
	}
	p.freed = false
}

// closeIdle closes the connections that were idle for too long. It looks at all of them, at most
// sixteen times in Options.Idle.
func (p *Proxy) closeIdle() {
	oldest := p.now
	for _, c := range p.slots {
		if !c.live || c.ending {
			continue
		}
		if p.now-c.moved >= p.options.Idle && !p.isDraining(c) {
			p.cutConn(c)
			continue
		}
		oldest = min(oldest, c.moved)
	}
	p.nextIdle = 0
	if p.count > 0 {
		p.nextIdle = max(oldest+p.options.Idle, p.now+p.options.Idle/16+time.Millisecond)
	}
}

// isDraining reports whether a side has taken, since the last call, some of what we wrote to the
// kernel's queue.
func (p *Proxy) isDraining(c *conn) bool {
	for s := range c.half {
		if h := &c.half[s]; !h.done && !h.writable && c.fd[1-s] >= 0 && !c.connecting {
			if q := int32(countUnsent(c.fd[1-s])); q != c.queued {
				c.queued, c.moved = q, p.now
				return true
			}
		}
	}
	return false
}

// cutAll ends the connections that are left.
func (p *Proxy) cutAll() {
	for _, c := range p.slots {
		if c.live {
			p.cutConn(c)
		}
	}
	p.pipes.closeUnused()
}
