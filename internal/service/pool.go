package service

import (
	"slices"
	"time"
)

// mostReady bounds the sandboxes that stand ready or are being made.
const mostReady = 8

// calmAfter is how long no client must have come for the pool to be made smaller.
const calmAfter = 5 * time.Second

// quietTime is how long the next sandbox is put off for after an exec: building it takes
// milliseconds of a processor that the program needs for its first answer.
const quietTime = 3 * time.Millisecond

// pool knows how many sandboxes should stand ready.
type pool struct {
	starts  [mostReady]time.Time // the last ones for a client, a ring
	started int                  // how many there were
	refused bool                 // the last sandbox was refused: no other is made before a client comes
}

func (p *pool) noteStart(now time.Time) {
	p.starts[p.started%mostReady] = now
	p.started++
}

// countWanted is how many sandboxes should stand ready: as many as clients came within
// the last second; with kept one at least, since the next one should find one ready.
func (p *pool) countWanted(kept bool, now time.Time) int {
	if p.refused {
		return 0
	}
	n := 0
	for _, at := range p.starts {
		if now.Sub(at) < time.Second {
			n++
		}
	}
	if n == 0 && kept {
		n = 1
	}
	return n
}

// fillPool makes sandboxes ahead of clients, or for clients that wait. The next one is
// not made while a program is on its way to its client, unless another client waits
// for it.
func (s *accepting) fillPool() {
	waiting := s.hasClients()
	if (s.counts[starting] > 0 || !s.quiet.IsZero()) && !waiting {
		return
	}
	want := s.pool.countWanted(s.kept, time.Now())
	if want == 0 && waiting {
		want = 1
	}
	if s.spec.Warm && s.slot == nil && !s.pool.refused {
		s.slot = s.around.Slots.QueueBuild()
	}
	free := min(s.countAllowed()-s.countClients(), s.share.Room()/perClient+len(s.returned))
	for n := s.counts[warm] + s.counts[warming]; n < min(want, free) && s.state == listening; n++ {
		s.buildInstance()
	}
}

// hasSandbox reports whether a sandbox stands ready that would be made like this again.
// Others are ended: what they were made of has changed.
func (s *accepting) hasSandbox() bool {
	for len(s.warm) > 0 && !s.warm[0].isFresh() {
		s.log.Debug("sandbox built anew: what it was made of has changed")
		s.warm[0].handle(onOutdated)
	}
	return len(s.warm) > 0
}

// leavePool takes an instance out of those that stand ready.
func (s *accepting) leavePool(i *instance) {
	s.warm = slices.DeleteFunc(s.warm, func(other *instance) bool { return other == i })
}

// beCalm has the pool looked at once no client has come for a while.
func (s *accepting) beCalm() {
	if s.calm.IsZero() && (len(s.warm) > 1 || !s.kept) {
		s.calm = time.Now().Add(calmAfter)
	}
}

// shrinkPool ends the sandboxes that the clients of the last second do not ask for.
func (s *accepting) shrinkPool() {
	keep := s.pool.countWanted(s.kept, time.Now())
	for len(s.warm) > keep {
		s.warm[0].handle(onOutdated)
	}
	if len(s.warm) > 0 {
		s.beCalm()
	}
}
