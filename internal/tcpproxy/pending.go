package tcpproxy

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// postpone has c wait for a backend. Where there will be none any more the next run has it.
func (p *Proxy) postpone(c *conn, err error) {
	r := c.route
	r.waiting = append(r.waiting, c)
	if p.leaving {
		p.setAside(r)
		return
	}
	p.stall(r, err)
}

// unjoin takes its backend from c, which was never connected: the program listens no more.
// What c has said is held. Without a next run the client is turned away.
func (p *Proxy) unjoin(c *conn) {
	if c.route.pending == nil {
		p.refuse(c, stepError("connect", unix.ECONNREFUSED))
		return
	}
	closeFD(c.fd[backend])
	epollControl(p.epoll, unix.EPOLL_CTL_DEL, c.fd[client], 0, 0, 0) // it may not be there yet
	said := c.half[client]
	c.fd[backend], c.connecting, c.room = -1, false, 0
	c.half = [2]half{client: {block: said.block, at: said.at, end: said.end}}
	c.renew() // what the epoll has told already is of no interest
	p.postpone(c, errRefused)
}

// errRefused is tried again, as a queue that is full.
var errRefused = fmt.Errorf("it does not listen: %w", unix.EAGAIN)

// setAside hands those of r that have no backend to the next run.
func (p *Proxy) setAside(r *route) {
	waiting := r.waiting
	r.waiting = nil
	for _, c := range waiting {
		if r.pending == nil {
			p.refuse(c, errLeaving)
			continue
		}
		var said []byte
		if h := &c.half[client]; h.block != nil {
			said = bytes.Clone(h.block[h.at:h.end])
		}
		r.pending.Put(int(c.fd[client]), said)
		c.fd[client] = -1
		p.release(c)
	}
}

// resume serves those whom the run before has set aside.
func (p *Proxy) resume(r *route) {
	for r.pending != nil && p.wanted(r) {
		fd, said, ok := r.pending.Take()
		if !ok {
			return
		}
		c := p.newConn(r, int32(fd))
		if len(said) > 0 {
			p.hold(&c.half[client], said)
		}
		r.present(int32(fd))
		p.connect(c)
	}
}

// forget: c waits no more.
func (r *route) forget(c *conn) {
	if i := slices.Index(r.waiting, c); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
}

// present makes the client with fd the one that is dialed for.
func (r *route) present(fd int32) {
	r.client = Client{fd: fd, peer: nameOf(fd, unix.SYS_GETPEERNAME)}
}
