package tcpproxy

import (
	"bytes"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// postponeDial makes c wait for a backend. If this run gets none any more, the next run has c.
func (p *Proxy) postponeDial(c *conn, err error) {
	r := c.route
	r.waiting = append(r.waiting, c)
	if p.leaving {
		p.putPending(r)
		return
	}
	p.stallRoute(r, err)
}

// dropBackend closes the backend of c, which was never connected: the program listens no more.
// The client's data is held. Without a next run the client is turned away.
func (p *Proxy) dropBackend(c *conn) {
	if c.route.pending == nil {
		p.refuseClient(c, stepError("connect", unix.ECONNREFUSED))
		return
	}
	closeFD(c.fd[backend])
	epollControl(p.epoll, unix.EPOLL_CTL_DEL, c.fd[client], 0, 0, 0) // it may not be there yet
	said := c.half[client]
	c.fd[backend], c.connecting, c.room = -1, false, 0
	c.half = [2]half{client: {block: said.block, at: said.at, end: said.end}}
	c.nextGeneration() // events that were read already are of no interest
	p.postponeDial(c, errRefused)
}

// errRefused is retried, like a queue that is full.
var errRefused = fmt.Errorf("it does not listen: %w", unix.EAGAIN)

// putPending hands the clients of r that have no backend to the next run.
func (p *Proxy) putPending(r *route) {
	waiting := r.waiting
	r.waiting = nil
	for _, c := range waiting {
		if r.pending == nil {
			p.refuseClient(c, errLeaving)
			continue
		}
		var said []byte
		if h := &c.half[client]; h.block != nil {
			said = bytes.Clone(h.block[h.at:h.end])
		}
		r.pending.Put(int(c.fd[client]), said)
		c.fd[client] = -1
		p.releaseConn(c)
	}
}

// takePending serves the clients that the run before has left.
func (p *Proxy) takePending(r *route) {
	for r.pending != nil && p.wantsClients(r) {
		fd, said, ok := r.pending.Take()
		if !ok {
			return
		}
		c := p.newConn(r, int32(fd))
		if len(said) > 0 {
			p.holdBytes(&c.half[client], said)
		}
		r.setClient(int32(fd))
		p.dialBackend(c)
	}
}

// forgetWaiting removes c from the clients that wait.
func (r *route) forgetWaiting(c *conn) {
	if i := slices.Index(r.waiting, c); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
	}
}

// setClient makes the client with fd the one for which Dial is called.
func (r *route) setClient(fd int32) {
	r.client = clientOf(fd)
}
