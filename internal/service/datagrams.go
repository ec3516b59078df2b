package service

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"activator/internal/listen"
	"activator/internal/netns"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// datagrams carries the datagrams of one socket to the program and its answers back.
type datagrams struct {
	*udprelay.Datagrams
	n     int // of the socket
	bound *netns.Bound
}

// await waits until the program has bound a target of UDP, and returns where, which
// the caller closes; nil: nobody is to be served any more.
func (c *carrier) await(target spec.Address) (*netns.Bound, error) {
	bound, err := c.program.Bound(target)
	if err != nil {
		return nil, err
	}
	there, err := awaitListening(c.ctx, bound)
	if err != nil || !there {
		bound.Close()
		return nil, err
	}
	return bound, nil
}

// openDatagrams makes the relay of socket n, which takes bound.
func (s *Service) openDatagrams(c *carrier, n int, file *os.File, bound *netns.Bound) error {
	s.expire(s.sockets[n])
	d, err := udprelay.Carry(file, &boundQueue{Bound: bound, backend: backend{service: s, child: c.child}},
		udprelay.Options{Expire: s.spec.ConnTimeout, Log: s.log, Undelivered: s.sockets[n].Undelivered()})
	if err != nil {
		bound.Close()
		return err
	}
	c.datagrams = append(c.datagrams, &datagrams{d, n, bound})
	c.traffic[n].Store(d)
	return nil
}

// run carries until the program is gone. What it has not read is kept for the next
// one.
func (d *datagrams) run(over context.Context) error {
	err := d.Run(over)
	d.end()
	if errors.Is(err, udprelay.ErrClosed) {
		return nil
	}
	return err
}

func (d *datagrams) end() {
	_ = d.Close()
	d.bound.Close()
}

// deliver starts the relays of datagrams; the first error ends the program. The function that it
// returns waits until they have ended.
func (s *Service) deliver(c *carrier) (wait func() error) {
	var all sync.WaitGroup
	failed := make([]error, len(c.datagrams))
	for i, d := range c.datagrams {
		all.Go(func() {
			if failed[i] = d.run(c.exited); failed[i] != nil {
				c.child.Kill()
			}
		})
	}
	stop := context.AfterFunc(c.ctx, func() {
		for _, d := range c.datagrams {
			d.Leave()
		}
	})
	return func() error {
		all.Wait()
		stop()
		return errors.Join(failed...)
	}
}

// emptied waits until nothing is on its way to the program any more, or it is gone.
func (c *carrier) emptied() {
	for _, d := range c.datagrams {
		select {
		case <-d.Left():
		case <-c.exited.Done():
		}
	}
}

// answered waits until the program has had time to answer who was carried to it in the
// moment in which it was found unused: it has read what they said, and no next one will.
func (c *carrier) answered(r retirement) {
	for end := time.Now().Add(lastWords); time.Now().Before(end) && c.carriedSince(r.seen); {
		select {
		case <-time.After(r.quiet):
		case <-c.exited.Done():
			return
		}
	}
}

// carriedSince reports whether more has been carried than seen, and notes it there.
func (c *carrier) carriedSince(seen []uint64) (more bool) {
	for _, d := range c.datagrams {
		now := d.Carried()
		more = more || now != seen[d.n]
		seen[d.n] = now
	}
	return more
}

// boundQueue is [udprelay.Inside]: the socket that the program has bound.
type boundQueue struct {
	*netns.Bound
	backend backend
}

// Queue implements [udprelay.Inside]. It is asked when there is something for the program.
func (p *boundQueue) Queue() (spec.Queue, error) {
	q, err := p.Bound.Queue()
	p.backend.noteListening(err != nil || q.There)
	return q, err
}

// expire turns away who was taken off a socket's queue and has waited for hold since.
func (s *Service) expire(socket *listen.Socket) {
	if n := socket.Undelivered().Expire(s.spec.Hold); n > 0 {
		s.log.Warn("clients turned away: no run of the service has read what they sent for as long as hold", "socket", socket.String(), "datagrams", n, "hold", s.spec.Hold)
	}
}

// disown turns away who was taken off a socket's queue for a service that was configured
// otherwise, if no run of this one can take him: he would wake it for nothing, for ever.
func (s *Service) disown() {
	if s.spec.Handover == spec.Proxy {
		return
	}
	for _, socket := range s.sockets {
		n := socket.Aside().TurnAway()
		if socket.Spec().Seal != spec.Relayed {
			n += socket.Undelivered().Expire(1)
		}
		if n > 0 {
			s.log.Warn("clients turned away: they were accepted for the service before the reload, which was a proxied one", "socket", socket.String(), "clients", n)
		}
	}
}
