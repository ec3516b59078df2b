package tcpproxy

import "golang.org/x/sys/unix"

const (
	big  = 16 << 10 // bytes in one read that make it look like bulk
	bulk = 8        // score
)

// pump moves what there is from s, until its source is empty, its target is full or
// its turn is over.
func (p *Proxy) pump(c *conn, s side) {
	h := &c.half[s]
	for left := turnBytes; ; {
		var n int
		switch {
		case h.done:
			return
		case !h.writable:
			return
		case h.block != nil:
			n = p.writeHeld(c, s)
		case h.pipe != nil:
			n = p.drain(c, s)
		case h.eof:
			p.ended(c, s)
			return
		case !h.readable:
			return
		case left <= 0:
			p.queue(c, s)
			return
		case h.score >= bulk && !h.copies:
			n = p.fill(c, s)
		default:
			n = p.copy(c, s)
		}
		if n > 0 {
			c.moved = p.now
			left -= n
		}
	}
}

// copy reads once and writes it.
func (p *Proxy) copy(c *conn, s side) int {
	h := &c.half[s]
	n, e := recv(c.fd[s], p.buffer)
	switch {
	case e != 0:
		p.unread(c, s, e)
		return 0
	case n == 0:
		h.eof = true
		return 0
	}
	h.tally(n)
	// A short read is an empty source, epoll(7), Q9, or the last one, where the end of
	// file had come before it. But not: with an error or urgent data behind it, or on a
	// unix socket, where it may have ended at a descriptor that was sent.
	h.readable = n == len(p.buffer) || h.careful
	h.eof = h.ends && !h.readable
	var flags uintptr
	if h.ends && n < len(p.buffer) {
		flags = unix.MSG_MORE // the end of file is next, and goes in the same segment
	}
	sent, e := send(c.fd[1-s], p.buffer[:n], flags)
	if e == 0 && sent == n {
		return n
	}
	if e != 0 {
		if sent = 0; !p.unwritten(c, s, e) {
			return 0
		}
	}
	p.hold(h, p.buffer[sent:n])
	return n
}

// tally learns whether a direction moves bulk.
func (h *half) tally(n int) {
	switch {
	case n == copySize:
		h.score = min(h.score+4, 2*bulk)
	case n >= big:
		h.score = min(h.score+1, 2*bulk)
	case h.score >= bulk:
		h.score -= 4
	default:
		h.score = 0
	}
}

// unread is an error of the source.
func (p *Proxy) unread(c *conn, s side, e unix.Errno) {
	h := &c.half[s]
	switch e {
	case unix.EAGAIN:
		h.readable = false
	case unix.EINTR:
	default:
		h.eof = true
		p.broke(c, s)
	}
}

// unwritten is an error of the target; false: of no hope.
func (p *Proxy) unwritten(c *conn, s side, e unix.Errno) bool {
	switch e {
	case unix.EAGAIN:
		c.half[s].writable = false
		if to := 1 - s; c.room&(1<<to) == 0 && p.watch(c, unix.EPOLL_CTL_MOD, to, roomEvents) != 0 {
			p.broke(c, to)
			return false
		}
	case unix.EINTR, unix.ENOMEM, unix.ENOBUFS:
		p.queue(c, s)
	default:
		p.broke(c, 1-s)
		return false
	}
	return true
}

// hold keeps a copy of b, not empty, for when there is room.
func (p *Proxy) hold(h *half, b []byte) {
	if last := len(p.blocks) - 1; last >= 0 {
		h.block = p.blocks[last]
		p.blocks = p.blocks[:last]
	} else {
		h.block = new([copySize]byte)
	}
	h.at, h.end = 0, int32(copy(h.block[:], b))
}

// writeHeld writes what hold kept.
func (p *Proxy) writeHeld(c *conn, s side) int {
	h := &c.half[s]
	n, e := send(c.fd[1-s], h.block[h.at:h.end], 0)
	if e != 0 {
		p.unwritten(c, s, e)
		return 0
	}
	if h.at += int32(n); h.at == h.end {
		p.drop(h)
	}
	return n
}

// fill moves from the source into a pipe.
func (p *Proxy) fill(c *conn, s side) int {
	h := &c.half[s]
	x := p.pipes.take()
	if x == nil {
		return p.copy(c, s)
	}
	n, e := splice(c.fd[s], x.write, pipeSize)
	switch {
	case e == unix.EINVAL: // not this kind of socket
		h.copies = true
	case e != 0:
		p.unread(c, s, e)
	case n == 0:
		h.eof = true
	default:
		h.tally(n)
		x.holds, h.pipe = n, x
		return 0 // they count when they are written
	}
	p.pipes.put(x)
	return 0
}

// drain moves from the pipe into the target.
func (p *Proxy) drain(c *conn, s side) int {
	h := &c.half[s]
	n, e := splice(h.pipe.read, c.fd[1-s], h.pipe.holds)
	if e != 0 {
		p.unwritten(c, s, e)
		return 0
	}
	if h.pipe.holds -= n; h.pipe.holds == 0 {
		p.drop(h)
	}
	return n
}

const keptBlocks = 8 // spare

// drop lets go of what h holds, written or not.
func (p *Proxy) drop(h *half) {
	if h.block != nil {
		if len(p.blocks) < keptBlocks {
			p.blocks = append(p.blocks, h.block)
		}
		h.block = nil
	}
	if h.pipe != nil {
		p.pipes.put(h.pipe)
		h.pipe = nil
	}
}
