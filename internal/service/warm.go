package service

import (
	"context"
	"log/slog"
	"time"

	"activator/internal/process"
	"activator/internal/spec"
)

// While no client is there the next process of a service stands already: everything
// is done but the word to go and the execve.

// prepareTimeout is how long it may take to build a sandbox ahead of clients.
const prepareTimeout = 30 * time.Second

// Attempts to have a sandbox stand are cheap, but no client waits for them.
const (
	warmDelay    = 100 * time.Millisecond // the least, after the first that failed
	warmMaxDelay = 10 * time.Minute
)

// queueBuild asks for a slot to build the next sandbox.
func (s *shared) queueBuild() {
	if s.spec.Warm && s.slot == nil {
		s.slot = s.around.Slots.QueueBuild()
	}
}

// leaveQueue gives the slot, or that of the sandbox that stands, back.
func (s *shared) leaveQueue() {
	s.slot.End()
	s.slot = nil
}

// prepareSandbox makes a process that waits for its first client.
func (s *shared) prepareSandbox() (event, bool) {
	s.limit(prepareTimeout)
	if err := s.launch(process.ClientAbsent); err != nil {
		s.logLoss(err)
		return onStartFailed, true
	}
	return 0, false
}

// keepSandbox lets the sandbox stand.
func (s *shared) keepSandbox() (event, bool) {
	s.limit(0)
	s.slot.Stand()
	s.run.started = time.Now()
	s.said = append(s.said, "pid", s.run.child.Pid())
	s.makeFastPath()
	return onOutdated, s.healPending && s.healNodes()
}

// logLoss says why there is no sandbox: once, and again only after one has stood for
// long.
func (s *shared) logLoss(err error) {
	level := slog.LevelDebug
	if s.losses.failures == 0 {
		level = slog.LevelWarn
	}
	s.log.Log(context.Background(), level, "sandbox not kept ready: the next client waits for a new one", "err", err)
}

// postponeSandbox lets some time pass before the next sandbox is built.
func (s *shared) postponeSandbox() {
	var stood time.Duration
	if p := s.run; p != nil && p.stage >= stageStanding {
		stood = time.Since(p.started)
	}
	s.run = nil
	s.leaveQueue()
	if s.healPending {
		s.healNodes()
	}
	s.limit(s.lossDelay(stood))
}

// lossDelay counts the loss of a sandbox that no client has had, and returns how long to
// wait before the next one is built.
func (s *Service) lossDelay(stood time.Duration) (delay time.Duration) {
	limits := spec.Timeouts{RestartDelay: max(s.spec.RestartDelay, warmDelay), RestartMaxDelay: warmMaxDelay}
	s.losses, delay = s.losses.rest(limits, stood, true, time.Now())
	return delay
}

// discardSandbox leaves a sandbox that is of no use to its goroutine, which ends it.
func (s *shared) discardSandbox() {
	s.run.cancel(nil)
	s.run = nil
	s.leaveQueue()
}

// claimSandbox notes that there is a client: from now on the time of the start counts. A sandbox
// that stands already is told to go.
func (s *shared) claimSandbox() (event, bool) {
	s.said = append(s.said, "socket", s.caller.String())
	s.limit(s.spec.StartTimeout)
	s.leaveQueue()
	s.starting = s.around.Slots.StartNow()
	p := s.run
	if p == nil {
		return 0, false
	}
	if p.stage != stageReleased {
		p.started = time.Now()
	}
	return onPrepared, p.stage >= stageStanding
}

// releaseSandbox says go to the sandbox that is built, if it is still what would be built now;
// else another one is. The fast path may have said it already.
func (s *shared) releaseSandbox() (event, bool) {
	p := s.run
	if p.stage == stageReleased {
		return 0, false
	}
	if !p.isFresh() {
		s.log.Debug("sandbox built anew: what it was made of has changed")
		s.discardSandbox()
		return s.startCold()
	}
	if err := p.letGo(nil); err != nil {
		s.log.Error("service not started", "err", err)
	}
	return 0, false
}
