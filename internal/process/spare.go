package process

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// spare is a child in namespaces of its own that belongs to no service yet. The kernel
// takes longer to make these than for the rest of a start, most of it for the network. So once a client
// has had to wait for that, one more child than is needed stands ready for the next who
// finds no sandbox: of whichever service, since it knows nothing, and has no mount of the host's.
type spare struct {
	child
	steps *steps
}

// spares is the place of one.
type spares struct {
	mu     sync.Mutex
	wanted bool // somebody had to wait
	making bool
	closed bool
	ready  *spare
	made   sync.WaitGroup
}

// spareEmbryo is what it is like.
func spareEmbryo() embryo {
	return (&birth{}).embryo()
}

// takeSpare takes the spare child for a client who waits, if there is one and it is as b's
// is to be. Its owner is the caller.
func (b *birth) takeSpare(e embryo) (*spare, bool) {
	if b.client != There || e != spareEmbryo() {
		return nil, false
	}
	s := &b.starter.spares
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted = true
	taken := s.ready
	s.ready = nil
	if taken != nil && taken.ended() {
		taken.discard()
		taken.steps.Close()
		taken = nil
	}
	return taken, taken != nil
}

// ended reports whether somebody has killed it.
func (c child) ended() bool {
	events, _ := fd.Poll(c.pidfd, unix.POLLIN, 0)
	return events != 0
}

// restock makes another one, if one is wanted and there is none. It is called when a
// process has ended, and not while one starts.
func (s *Starter) restock() {
	p := &s.spares
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.wanted || p.making || p.closed || p.ready != nil {
		return
	}
	p.making = true
	p.made.Go(func() {
		made := s.makeSpare()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.making, p.ready = false, made
	})
}

// makeSpare returns nil where that fails: who starts next does it himself, and is told why.
func (s *Starter) makeSpare() *spare {
	e := spareEmbryo()
	list, slot, err := s.conceive(e)
	if err != nil {
		return nil
	}
	c := s.clone(e, list, slot, func(int) error { return nil })
	if c.err != nil {
		list.Close()
		return nil
	}
	return &spare{c, list}
}

// close ends it.
func (p *spares) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.made.Wait()
	if p.ready != nil {
		p.ready.discard()
		p.ready.steps.Close()
		p.ready = nil
	}
}
