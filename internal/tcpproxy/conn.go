package tcpproxy

import (
	"time"

	"golang.org/x/sys/unix"
)

// side is an end of a connection.
type side int32

const (
	client side = iota
	backend
)

// conn is a client and its backend.
type conn struct {
	route      *route
	half       [2]half  // half[s] carries what comes from s
	fd         [2]int32 // -1: none
	slot       int32
	generation int32         // changes when the conn is used for the next client; never 0
	moved      time.Duration // when something last did
	queued     int32         // see isDraining
	broken     uint8         // 1<<side: that side was reset
	room       uint8         // 1<<side: the epoll tells when there is room again
	live       bool
	connecting bool
	ending     bool // the reset waits only for the rest of the kernel's queue
}

// half is one direction of a connection.
type half struct {
	block    *[copySize]byte // read and not written: block[at:end]
	at, end  int32
	pipe     *pipe // the same, spliced
	readable bool  // its source has something, or may have
	writable bool  // its target has room, or may have
	careful  bool  // a short read does not mean that the source is empty
	ends     bool  // an end of file is behind what there is
	eof      bool  // the source has ended
	done     bool  // so has the target: nothing moves here any more
	queued   bool  // in loop.ready
	copies   bool  // splice is of no use here
	score    int8  // at bulk or above it splices
}

// The events of a side. Room is of interest only after there was none.
const (
	events     = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET
	roomEvents = events | unix.EPOLLOUT
)

// newConn takes fd.
func (p *Proxy) newConn(r *route, fd int32) *conn {
	if len(p.free) == 0 {
		p.growSlots()
	}
	c := p.free[len(p.free)-1]
	p.free = p.free[:len(p.free)-1]
	*c = conn{slot: c.slot, generation: c.generation, route: r, fd: [2]int32{fd, -1}, live: true, moved: p.now}
	p.count++
	p.share.Take(perConn)
	if p.options.Idle > 0 && p.nextIdle == 0 {
		p.nextIdle = p.now + p.options.Idle
	}
	return c
}

// growSlots makes slots for a page of connections.
func (p *Proxy) growSlots() {
	chunk := make([]conn, 32)
	for i := range chunk {
		c := &chunk[i]
		c.slot, c.generation = int32(len(p.slots)), 1
		p.slots = append(p.slots, c)
		p.free = append(p.free, c)
	}
}

// joinBackend takes fd, the backend of c.
func (p *Proxy) joinBackend(c *conn, fd int32) {
	c.fd[backend] = fd
	r := c.route
	if r.backend == unknown {
		r.backend = kindOf(fd)
	}
	up, down := &c.half[client], &c.half[backend]
	down.writable, c.connecting = true, true
	up.careful, down.careful = !r.internet, r.backend == local
	if r.backend == internet && p.options.Protocol == "" && up.block == nil && !p.sendEarly(c) {
		return
	}
	e := p.watchSide(c, unix.EPOLL_CTL_ADD, client, events)
	switch {
	case e != 0:
	case c.connecting:
		e = p.watchSide(c, unix.EPOLL_CTL_ADD, backend, roomEvents)
	default:
		e = p.watchSide(c, unix.EPOLL_CTL_ADD, backend, events)
	}
	switch {
	case e != 0:
		p.refuseClient(c, stepError("epoll_ctl", e))
	case !c.connecting:
		p.pumpHalf(c, client) // what sendEarly could not write
	}
}

// sendEarly carries the data that the client has sent already. Most programs are connected by
// now, and the data goes with the segment that ends the handshake, see [PrepareSocket]. It reports
// whether c still lives.
func (p *Proxy) sendEarly(c *conn) bool {
	// The next run may have to put a header before it.
	n, e := receiveBytes(c.fd[client], p.buffer[:copySize-mostHeader])
	if e != 0 || n == 0 {
		if e != 0 && e != unix.EAGAIN && e != unix.EINTR {
			p.resetConn(c) // the client was reset
			return false
		}
		// The program may send first, and has to learn that we are connected.
		setOption(c.fd[backend], unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
		return true
	}
	up := &c.half[client]
	up.scoreRead(n)
	sent, e := sendBytes(c.fd[backend], p.buffer[:n], 0)
	switch e {
	case 0:
		c.connecting, up.writable = false, true
	case unix.EAGAIN, unix.EINTR, unix.ENOMEM, unix.ENOBUFS, unix.EPIPE, unix.ECONNRESET:
		sent = 0 // not connected yet, or reset: its first event tells
	case unix.ECONNREFUSED:
		p.holdBytes(up, p.buffer[:n])
		p.dropBackend(c)
		return false
	default:
		p.refuseClient(c, stepError("connect", e))
		return false
	}
	if sent < n {
		p.holdBytes(up, p.buffer[sent:n])
	}
	return true
}

// watchSide tells the epoll which events of side s are of interest.
func (p *Proxy) watchSide(c *conn, op int, s side, events uint32) unix.Errno {
	if events&unix.EPOLLOUT != 0 {
		c.room |= 1 << s
	}
	return epollControl(p.epoll, op, c.fd[s], events, c.slot<<1|int32(s), c.generation)
}

// refuseClient turns the client of c away: there is no backend for it.
func (p *Proxy) refuseClient(c *conn, err error) {
	who := clientOf(c.fd[client])
	p.refusal.logLimited(p.now, p.options.Log, "a client was turned away", "addr", who.Addr(), "err", err)
	p.resetConn(c)
}

// handleEvent handles an event of side s.
func (p *Proxy) handleEvent(c *conn, s side, ev uint32) {
	if c.ending {
		return
	}
	if c.connecting && s == backend && !p.finishConnect(c, ev) {
		return
	}
	generation := c.generation
	if to := &c.half[1-s]; ev&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 && !to.writable {
		to.writable = true
		p.pumpHalf(c, 1-s)
	}
	if c.generation != generation || c.ending || ev&^unix.EPOLLOUT == 0 {
		return
	}
	from := &c.half[s]
	from.readable = true
	from.ends = from.ends || ev&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
	from.careful = from.careful || ev&^(unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP) != 0
	if !from.done {
		p.pumpHalf(c, s)
	} else if ev&unix.EPOLLERR != 0 {
		// The side had ended its half before it was reset: no read of ours tells.
		if e, _ := readOption(c.fd[s], unix.SOL_SOCKET, unix.SO_ERROR); e != 0 {
			p.breakSide(c, s)
		}
	}
}

// finishConnect reports whether the backend is connected after its first event. If it is not, the
// client waits for another one, or is turned away. A backend that has answered and was reset
// counts as connected.
func (p *Proxy) finishConnect(c *conn, ev uint32) bool {
	if ev&unix.EPOLLERR != 0 {
		e, _ := readOption(c.fd[backend], unix.SOL_SOCKET, unix.SO_ERROR)
		switch err := unix.Errno(e); err {
		case 0: // something else is in its error queue
		case unix.ECONNRESET, unix.EPIPE:
			c.connecting = false
			p.breakSide(c, backend)
			return true
		case unix.ECONNREFUSED:
			p.dropBackend(c)
			return false
		default:
			p.refuseClient(c, stepError("connect", err))
			return false
		}
	}
	if ev&(unix.EPOLLOUT|unix.EPOLLHUP) != 0 {
		c.connecting = false
		p.holdHeader(c)
	}
	return true
}

// holdHeader holds the header of the PROXY protocol, to be sent before the data that a run that
// ended has read from the client, see sendEarly.
func (p *Proxy) holdHeader(c *conn) {
	if p.options.Protocol == "" {
		return
	}
	who := clientOf(c.fd[client])
	first := appendHeader(p.buffer[:0], p.options.Protocol, who.Addr(), who.Local())
	up := &c.half[client]
	if up.block != nil {
		first = append(first, up.block[up.at:up.end]...)
		p.dropHeld(up)
	}
	p.holdBytes(up, first)
}

// breakSide ends side s, which was reset. Its data is still carried, and then the other side is
// reset too. Data for side s is lost.
func (p *Proxy) breakSide(c *conn, s side) {
	c.broken |= 1 << s
	dead, rest := &c.half[1-s], &c.half[s]
	p.dropHeld(dead)
	dead.done = true
	if rest.done || c.broken == 1<<client|1<<backend {
		p.abortConn(c)
		return
	}
	rest.readable, rest.careful = true, true
	p.queueHalf(c, s)
}

// endHalf ends the direction from s, which has carried everything.
func (p *Proxy) endHalf(c *conn, s side) {
	if c.broken != 0 {
		p.abortConn(c)
		return
	}
	c.half[s].done = true
	if c.half[1-s].done {
		p.releaseConn(c)
		return
	}
	if e := shutdown(c.fd[1-s]); e != 0 {
		p.breakSide(c, 1-s)
	}
}

// abortConn resets both sides. The side that was not reset may first take what is written: a
// reset makes the kernel forget its queue.
func (p *Proxy) abortConn(c *conn) {
	for s, fd := range c.fd {
		if c.broken&(1<<s) == 0 && countUnsent(fd) > 0 {
			p.stopHalves(c)
			c.ending = true
			c.queued = int32(countUnsent(fd))
			c.moved = p.now
			p.ending = append(p.ending, c)
			if p.nextEnd == 0 {
				p.nextEnd = p.now + endingTick
			}
			return
		}
	}
	p.resetConn(c)
}

// endingTimeout is how long a queue may stand still before the reset.
const endingTimeout = 10 * time.Second

// resetDrained resets the ending connections whose queue is empty.
func (p *Proxy) resetDrained() {
	left := p.ending[:0]
	for _, c := range p.ending {
		n := int32(0)
		for s, fd := range c.fd {
			if c.broken&(1<<s) == 0 {
				n += int32(countUnsent(fd))
			}
		}
		if n != c.queued {
			c.queued, c.moved = n, p.now
		}
		if n == 0 || p.now-c.moved >= endingTimeout {
			p.resetConn(c)
		} else {
			left = append(left, c)
		}
	}
	clear(p.ending[len(left):])
	p.ending, p.nextEnd = left, 0
	if len(left) > 0 {
		p.nextEnd = p.now + endingTick
	}
}

// cutConn ends c from our side. A stream that is not carried to its end must not look complete:
// its reader gets a reset.
func (p *Proxy) cutConn(c *conn) {
	if c.ending || c.connecting || c.fd[backend] < 0 || c.broken != 0 {
		p.resetConn(c)
		return
	}
	for s := range c.half {
		h := &c.half[s]
		if h.done {
			continue
		}
		unread, e := 0, unix.Errno(0)
		holds := h.block != nil || h.pipe != nil
		if !holds && !h.eof {
			unread, e = peekByte(c.fd[s])
		}
		if holds || unread > 0 || e != 0 && e != unix.EAGAIN {
			resetOnClose(c.fd[1-s])
		}
	}
	p.releaseConn(c)
}

// resetOnClose makes close(2) a reset. socket(7), SO_LINGER
func resetOnClose(fd int32) { setOption(fd, unix.SOL_SOCKET, unix.SO_LINGER, 1, 0) }

// resetConn closes both sides with a reset, where there is such a thing.
func (p *Proxy) resetConn(c *conn) {
	for _, fd := range c.fd {
		if fd >= 0 {
			resetOnClose(fd)
		}
	}
	p.releaseConn(c)
}

// stopHalves ends both directions: nothing moves any more.
func (p *Proxy) stopHalves(c *conn) {
	for s := range c.half {
		p.dropHeld(&c.half[s])
		c.half[s].done = true
	}
}

// nextGeneration makes c another connection for events and turns that are still queued.
func (c *conn) nextGeneration() {
	if c.generation++; c.generation <= 0 {
		c.generation = 1
	}
}

// releaseConn closes c and makes room for the next.
func (p *Proxy) releaseConn(c *conn) {
	p.stopHalves(c)
	for _, fd := range c.fd {
		if fd >= 0 {
			closeFD(fd)
		}
	}
	c.route.forgetWaiting(c)
	c.live = false
	c.fd = [2]int32{-1, -1}
	c.nextGeneration()
	p.free = append(p.free, c)
	p.count--
	p.share.Give(perConn)
	p.freed = true
	if p.count == 0 {
		p.pipes.closeUnused()
		p.nextIdle = 0
	}
}
