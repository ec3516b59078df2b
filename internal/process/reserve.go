package process

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// reserveChild is a child in namespaces of its own that belongs to no service yet. The kernel
// takes longer to make these than for the rest of a start, most of it for the network. So once a client
// has had to wait for that, one more child than is needed stands ready for the next who
// finds no sandbox: of whichever service, since it knows nothing, and has no mount of the host's.
type reserveChild struct {
	child
	calls *callList
}

// reserve is the place of one.
type reserve struct {
	mu     sync.Mutex
	wanted bool // somebody had to wait
	making bool
	closed bool
	ready  *reserveChild
	made   sync.WaitGroup
}

// reserveShape is what it is like.
func reserveShape() childShape {
	return (&preparation{}).describeChild()
}

// takeReserve takes the spare child for a client who waits, if there is one and it is as b's
// is to be. Its owner is the caller.
func (b *preparation) takeReserve(e childShape) (*reserveChild, bool) {
	if b.client != ClientWaiting || e != reserveShape() {
		return nil, false
	}
	s := &b.starter.reserve
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = true
	taken := s.ready
	s.ready = nil
	if taken != nil && taken.hasEnded() {
		taken.endChild()
		taken.calls.Close()
		taken = nil
	}
	return taken, taken != nil
}

// hasEnded reports whether somebody has killed it.
func (c child) hasEnded() bool {
	events, _ := fd.Poll(c.pidfd, unix.POLLIN, 0)
	return events != 0
}

// refillReserve makes another one, if one is wanted and there is none. It is called when a
// process has ended, and not while one starts.
func (s *Starter) refillReserve() {
	p := &s.reserve
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted || p.making || p.closed || p.ready != nil {
		return
	}
	p.making = true
	p.made.Go(func() {
		made := s.cloneReserve()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.making, p.ready = false, made
	})
}

// cloneReserve returns nil where that fails: who starts next does it himself, and is told why.
func (s *Starter) cloneReserve() *reserveChild {
	e := reserveShape()
	list, slot, err := s.beginCalls(e)
	if err != nil {
		return nil
	}
	c := s.cloneOnThread(e, list, slot, func(int) error { return nil })
	if c.err != nil {
		list.Close()
		return nil
	}
	return &reserveChild{c, list}
}

// closeReserve ends it.
func (p *reserve) closeReserve() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.made.Wait()
	if p.ready != nil {
		p.ready.endChild()
		p.ready.calls.Close()
		p.ready = nil
	}
}
