package inetd

import (
	"cmp"
	"context"
	"time"

	"activator/internal/handover"
	"activator/internal/process"
	"activator/internal/service"
)

// pool are the sandboxes that stand ready, each for one client to come.
type pool struct {
	ready   []*sandbox
	making  map[*sandbox]context.CancelFunc
	starts  [mostReady]time.Time // the last ones, a ring
	started int                  // how many there were
	failed  bool                 // the last one made for nobody was refused: not again before a client comes
}

// mostReady bounds the sandboxes that stand ready or are being made.
const mostReady = 8

// calmAfter is how long nobody must have come for the pool to be made smaller.
const calmAfter = 5 * time.Second

// sandbox is a process that waits for its client.
type sandbox struct {
	child    *process.Process
	handover handover.Handover
	output   *service.Output
}

// wanted is how many sandboxes should stand ready: as many as clients came within
// the last second, one at least, since the next one should find one ready.
func (p *pool) wanted(placed bool, now time.Time) int {
	if p.failed {
		return 0
	}
	n := 0
	for _, at := range p.starts {
		if now.Sub(at) < time.Second {
			n++
		}
	}
	if n == 0 && placed {
		n = 1
	}
	return n
}

func (p *pool) count(now time.Time) {
	p.starts[p.started%mostReady] = now
	p.started++
}

// quiet is how long the next sandbox is put off for after an exec: building it takes
// milliseconds of a processor that the program needs for its first answer.
const quiet = 3 * time.Millisecond

// fill makes sandboxes ahead of clients, or for clients that wait. The next one is
// not made while a program is on its way to its client, unless another client waits
// for it.
func (s *Service) fill() {
	if (s.starting > 0 || s.quiet != nil) && !s.waiting() {
		return
	}
	want := s.pool.wanted(s.placed, time.Now())
	if want == 0 && s.waiting() {
		want = 1
	}
	if s.spec.Warm && s.slot == nil && !s.pool.failed {
		s.slot = s.around.Slots.Queue()
	}
	free := min(cmp.Or(s.spec.MaxConns, maxConnections)-len(s.instances), s.share.Room()/perClient+len(s.returned))
	for n := len(s.pool.ready) + len(s.pool.making); n < min(want, free); n++ {
		s.make()
	}
}

// make begins a sandbox, and leaves it to a goroutine.
func (s *Service) make() {
	ctx, cancel := context.WithCancel(context.Background())
	if s.spec.StartTimeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), s.spec.StartTimeout)
	}
	one := &sandbox{}
	if s.pool.making == nil {
		s.pool.making = make(map[*sandbox]context.CancelFunc)
	}
	s.pool.making[one] = cancel
	s.working.Go(func() {
		defer cancel()
		s.reports <- made{one, s.prepare(ctx, one)}
	})
}

// prepare builds a sandbox up to the word to go.
func (s *Service) prepare(ctx context.Context, one *sandbox) error {
	output, err := service.OpenOutput(s.spec.Stdout, s.spec.Stderr)
	if err != nil {
		return err
	}
	one.handover, err = s.handover.Begin(process.ClientAbsent)
	if err != nil {
		output.Close()
		return err
	}
	given := one.handover.Given()
	given.Out, given.Err = output.Child()
	child, err := s.around.Starter.Prepare(ctx, s.spec.Process, given)
	output.HandedOver()
	if err == nil {
		err = one.handover.Attach(child)
	}
	if err != nil {
		output.Close()
		return err
	}
	output.Copy(s.around.Sink, s.spec.Process.Name, child.Pid())
	one.child, one.output = child, output
	return nil
}

// standing reports whether a sandbox stands ready that would be made like this again.
// Others are ended: what they were made of has changed.
func (s *Service) standing() bool {
	for len(s.pool.ready) > 0 {
		one := s.pool.ready[0]
		if one.child.IsFresh() && one.output.Fresh() {
			return true
		}
		s.log.Debug("sandbox built anew: what it was made of has changed")
		s.pool.ready = s.pool.ready[1:]
		s.discard(one)
	}
	return false
}

// discard ends a sandbox that nobody needs.
func (s *Service) discard(one *sandbox) {
	s.working.Go(func() {
		_ = one.child.Close()
		one.output.Close()
	})
}

// report is what a goroutine tells the service's.
type report interface{ to(s *Service) }

// made says that a sandbox stands ready, or why it does not.
type made struct {
	sandbox *sandbox
	err     error
}

func (m made) to(s *Service) {
	delete(s.pool.making, m.sandbox)
	switch {
	case m.err == nil && s.leaving:
		s.discard(m.sandbox)
	case m.err == nil:
		s.log.Debug("sandbox ready", "pid", m.sandbox.child.Pid())
		s.pool.failed = false
		s.pool.ready = append(s.pool.ready, m.sandbox)
		s.beCalm()
	case s.leaving:
	default:
		s.log.Error("sandbox not made", "err", m.err)
		if s.placed {
			s.slot.End()
			s.slot, s.placed = nil, false
		}
		if s.pool.failed = true; s.waiting() {
			s.rest()
		}
	}
}

// beCalm has the pool looked at once nobody has come for a while.
func (s *Service) beCalm() {
	if s.calm == nil && (len(s.pool.ready) > 1 || !s.placed) {
		s.calm = time.NewTimer(calmAfter)
	}
}

// shrink ends the sandboxes that the clients of the last second do not ask for.
func (s *Service) shrink() {
	keep := s.pool.wanted(s.placed, time.Now())
	for len(s.pool.ready) > keep {
		s.discard(s.pool.ready[0])
		s.pool.ready = s.pool.ready[1:]
	}
	if len(s.pool.ready) > 0 {
		s.beCalm()
	}
}
