package tcpproxy

import "golang.org/x/sys/unix"

const (
	big  = 16 << 10 // bytes in one read that make it look like bulk
	bulk = 8        // score
)

// pumpHalf moves data from s until the source is empty, the target is full, or it has moved
// turnBytes.
func (p *Proxy) pumpHalf(c *conn, s side) {
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
			n = p.drainPipe(c, s)
		case h.eof:
			p.endHalf(c, s)
			return
		case !h.readable:
			return
		case left <= 0:
			p.queueHalf(c, s)
			return
		case h.score >= bulk && !h.copies:
			n = p.fillPipe(c, s)
		default:
			n = p.copyOnce(c, s)
		}
		if n > 0 {
			c.moved = p.now
			left -= n
		}
	}
}

// copyOnce reads once and writes what it has read.
func (p *Proxy) copyOnce(c *conn, s side) int {
	h := &c.half[s]
	n, e := receiveBytes(c.fd[s], p.buffer)
	switch {
	case e != 0:
		p.handleReadError(c, s, e)
		return 0
	case n == 0:
		h.eof = true
		return 0
	}
	h.scoreRead(n)
	// A short read is an empty source, epoll(7), Q9, or the last one, where the end of
	// file had come before it. But not: with an error or urgent data behind it, or on a
	// unix socket, where it may have ended at a descriptor that was sent.
	h.readable = n == len(p.buffer) || h.careful
	h.eof = h.ends && !h.readable
	var flags uintptr
	if h.ends && n < len(p.buffer) {
		flags = unix.MSG_MORE // the end of file is next, and goes in the same segment
	}
	sent, e := sendBytes(c.fd[1-s], p.buffer[:n], flags)
	if e == 0 && sent == n {
		return n
	}
	if e != 0 {
		if sent = 0; !p.handleWriteError(c, s, e) {
			return 0
		}
	}
	p.holdBytes(h, p.buffer[sent:n])
	return n
}

// scoreRead notes whether a direction moves bulk.
func (h *half) scoreRead(n int) {
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

// handleReadError handles an error of the source.
func (p *Proxy) handleReadError(c *conn, s side, e unix.Errno) {
	h := &c.half[s]
	switch e {
	case unix.EAGAIN:
		h.readable = false
	case unix.EINTR:
	default:
		h.eof = true
		p.breakSide(c, s)
	}
}

// handleWriteError handles an error of the target. It is false if the target is lost.
func (p *Proxy) handleWriteError(c *conn, s side, e unix.Errno) bool {
	switch e {
	case unix.EAGAIN:
		c.half[s].writable = false
		if to := 1 - s; c.room&(1<<to) == 0 && p.watchSide(c, unix.EPOLL_CTL_MOD, to, roomEvents) != 0 {
			p.breakSide(c, to)
			return false
		}
	case unix.EINTR, unix.ENOMEM, unix.ENOBUFS:
		p.queueHalf(c, s)
	default:
		p.breakSide(c, 1-s)
		return false
	}
	return true
}

// holdBytes keeps a copy of b, not empty, until the target has room.
func (p *Proxy) holdBytes(h *half, b []byte) {
	if last := len(p.blocks) - 1; last >= 0 {
		h.block = p.blocks[last]
		p.blocks = p.blocks[:last]
	} else {
		h.block = new([copySize]byte)
	}
	h.at, h.end = 0, int32(copy(h.block[:], b))
}

// writeHeld writes the bytes of holdBytes.
func (p *Proxy) writeHeld(c *conn, s side) int {
	h := &c.half[s]
	n, e := sendBytes(c.fd[1-s], h.block[h.at:h.end], 0)
	if e != 0 {
		p.handleWriteError(c, s, e)
		return 0
	}
	if h.at += int32(n); h.at == h.end {
		p.dropHeld(h)
	}
	return n
}

// fillPipe moves bytes from the source into a pipe.
func (p *Proxy) fillPipe(c *conn, s side) int {
	h := &c.half[s]
	x := p.pipes.takePipe()
	if x == nil {
		return p.copyOnce(c, s)
	}
	n, e := splice(c.fd[s], x.write, pipeSize)
	switch {
	case e == unix.EINVAL: // not this kind of socket
		h.copies = true
	case e != 0:
		p.handleReadError(c, s, e)
	case n == 0:
		h.eof = true
	default:
		h.scoreRead(n)
		x.holds, h.pipe = n, x
		return 0 // they count when they are written
	}
	p.pipes.putPipe(x)
	return 0
}

// drainPipe moves bytes from the pipe into the target.
func (p *Proxy) drainPipe(c *conn, s side) int {
	h := &c.half[s]
	n, e := splice(h.pipe.read, c.fd[1-s], h.pipe.holds)
	if e != 0 {
		p.handleWriteError(c, s, e)
		return 0
	}
	if h.pipe.holds -= n; h.pipe.holds == 0 {
		p.dropHeld(h)
	}
	return n
}

const keptBlocks = 8 // free ones

// dropHeld frees the block and the pipe of h, written or not.
func (p *Proxy) dropHeld(h *half) {
	if h.block != nil {
		if len(p.blocks) < keptBlocks {
			p.blocks = append(p.blocks, h.block)
		}
		h.block = nil
	}
	if h.pipe != nil {
		p.pipes.putPipe(h.pipe)
		h.pipe = nil
	}
}
