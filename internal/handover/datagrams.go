package handover

import (
	"context"
	"errors"
	"sync"
	"time"

	"activator/internal/netns"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// datagrams carries the datagrams of one socket to the program and its answers back.
type datagrams struct {
	*udprelay.ProgramRelay
	n     int // of the socket
	bound *netns.Bound
}

// awaitBound waits until the program has bound a target of UDP, and returns where, which
// the caller closes; nil: no client is to be served any more.
func (h *proxy) awaitBound(target spec.Address) (*netns.Bound, error) {
	bound, err := h.program.NewBound(target)
	if err != nil {
		return nil, err
	}
	there, err := awaitListening(h.accepting, bound)
	if err != nil || !there {
		bound.Close()
		return nil, err
	}
	return bound, nil
}

// openDatagrams makes the relay of socket n, which takes bound.
func (h *proxy) openDatagrams(n int, bound *netns.Bound) error {
	h.ExpireUndelivered(h.Sockets[n])
	d, err := udprelay.OpenProgramRelay(h.files[n], &boundQueue{Bound: bound, backend: backend{of: h}},
		udprelay.Options{Expire: h.Spec.ConnTimeout, Log: h.Log, Undelivered: h.Sockets[n].Undelivered()})
	if err != nil {
		bound.Close()
		return err
	}
	h.datagrams = append(h.datagrams, &datagrams{d, n, bound})
	h.traffic[n].Store(d)
	return nil
}

// runRelay carries until the program is gone. What it has not read is kept for the next
// one.
func (d *datagrams) runRelay(over context.Context) error {
	err := d.Run(over)
	d.closeRelay()
	if errors.Is(err, udprelay.ErrClosed) {
		return nil
	}
	return err
}

func (d *datagrams) closeRelay() {
	_ = d.Close()
	d.bound.Close()
}

// runDatagrams starts the relays; the first error ends the program. The function that it
// returns waits until they have ended.
func (h *proxy) runDatagrams() (wait func() error) {
	var all sync.WaitGroup
	failed := make([]error, len(h.datagrams))
	for i, d := range h.datagrams {
		all.Go(func() {
			if failed[i] = d.runRelay(h.living); failed[i] != nil {
				h.child.Kill()
			}
		})
	}
	stop := context.AfterFunc(h.accepting, func() {
		for _, d := range h.datagrams {
			d.Leave()
		}
	})
	return func() error {
		all.Wait()
		stop()
		return errors.Join(failed...)
	}
}

// awaitRead waits until nothing is on its way to the program any more, or it is gone.
func (h *proxy) awaitRead() {
	for _, d := range h.datagrams {
		select {
		case <-d.Left():
		case <-h.living.Done():
		}
	}
}

// awaitAnswers waits until the program has had time to answer the clients that were carried
// to it in the moment in which it was found unused: it has read what they said, and no next
// run will.
func (h *proxy) awaitAnswers(r Retirement) {
	for end := time.Now().Add(lastWords); time.Now().Before(end) && h.carriedSince(r.Seen); {
		select {
		case <-time.After(min(r.Quiet, lastWords)):
		case <-h.living.Done():
			return
		}
	}
}

// carriedSince reports whether more has been carried than seen, and notes it there.
func (h *proxy) carriedSince(seen []uint64) (more bool) {
	for _, d := range h.datagrams {
		now := d.Carried()
		more = more || now != seen[d.n]
		seen[d.n] = now
	}
	return more
}

// boundQueue is [udprelay.Program]: the socket that the program has bound.
type boundQueue struct {
	*netns.Bound
	backend backend
}

// ReadQueue implements [udprelay.Program]. It is asked when there is something for the program.
func (p *boundQueue) ReadQueue() (spec.Queue, error) {
	q, err := p.Bound.ReadQueue()
	p.backend.noteListening(err != nil || q.There)
	return q, err
}
