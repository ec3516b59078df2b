package service

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"activator/internal/process"
	"activator/internal/spec"
)

// While nobody is there the next process of a service stands already: everything
// is done but the word to go and the execve.

// prepareTimeout is how long it may take to build a sandbox for nobody yet.
const prepareTimeout = 30 * time.Second

// Attempts to have a sandbox stand are cheap, but nobody waits for them.
const (
	warmDelay    = 100 * time.Millisecond // the least, after the first that failed
	warmMaxDelay = 10 * time.Minute
)

// queue asks for a slot to build the next sandbox.
func (s *Service) queue() {
	if s.spec.Warm && s.slot == nil {
		s.slot = s.around.Slots.Queue()
	}
}

// leaveQueue gives the slot, or that of the sandbox that stands, back.
func (s *Service) leaveQueue() {
	s.slot.End()
	s.slot = nil
}

// prepare makes a process that waits for its first client.
func (s *Service) prepare() (event, bool) {
	s.limit(prepareTimeout)
	if err := s.launch(process.ClientAbsent); err != nil {
		s.lost(err)
		return onStartFailed, true
	}
	return 0, false
}

// keep lets the sandbox stand.
func (s *Service) keep() (event, bool) {
	s.stop(&s.timer)
	s.slot.Stand()
	s.process.started = time.Now()
	s.said = append(s.said, "pid", s.process.child.Pid())
	s.makeFastPath()
	return onOutdated, s.healPending && s.heal()
}

// lost says why there is no sandbox: once, and again only after one has stood for
// long.
func (s *Service) lost(err error) {
	level := slog.LevelDebug
	if s.losses.failures == 0 {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "sandbox not kept ready: the next client waits for a new one", "err", err)
}

// postpone lets some time pass before the next sandbox is built.
func (s *Service) postpone() {
	var stood time.Duration
	if p := s.process; p != nil && p.stage >= stageStanding {
		stood = time.Since(p.started)
	}
	s.process = nil
	s.leaveQueue()
	if s.healPending {
		s.heal()
	}
	limits := spec.Timeouts{RestartDelay: max(s.spec.RestartDelay, warmDelay), RestartMaxDelay: warmMaxDelay}
	var delay time.Duration
	s.losses, delay = s.losses.rest(limits, stood, true, time.Now())
	s.limit(delay)
}

// discard leaves a sandbox that is of no use to its goroutine, which ends it.
func (s *Service) discard() {
	s.process.cancel(nil)
	s.process = nil
	s.leaveQueue()
}

// claim notes that there is a client: from now on the time of the start counts. A sandbox
// that stands already is told to go.
func (s *Service) claim() (event, bool) {
	s.said = append(s.said, "socket", s.caller.String())
	s.limit(s.spec.StartTimeout)
	s.leaveQueue()
	s.starting = s.around.Slots.StartNow()
	p := s.process
	if p == nil {
		return 0, false
	}
	if p.stage != stageReleased {
		p.started = time.Now()
	}
	return onPrepared, p.stage >= stageStanding
}

// letGo says go to the sandbox that is built, if it is still what would be built now;
// else another one is. It is the only one who does, but for the fast path.
func (s *Service) letGo() (event, bool) {
	p := s.process
	if p.stage == stageReleased {
		return 0, false
	}
	if !p.fresh() {
		s.log.Debug("sandbox built anew: what it was made of has changed")
		s.discard()
		return s.launchNow()
	}
	p.stage = stageReleased
	if err := p.handover.Go(nil); err != nil {
		s.log.Error("service not started", "err", err)
		p.cancel(err) // and so it will be reported
		p.child.Kill()
	}
	return 0, false
}

// fresh reports whether the process would be made like this again.
func (p *instance) fresh() bool {
	return p.child.IsFresh() && !slices.ContainsFunc(p.outputs, func(f outputFile) bool { return !f.same() })
}
