package service

import (
	"time"

	"activator/internal/epoll"
	"activator/internal/listen"
	"activator/internal/notify"
	"activator/internal/process"
	"activator/internal/spec"
)

// shared is a service with one process for all clients: its life is the service's.
type shared struct {
	*Service
	caller   *listen.Socket  // that woke the service
	run      *run            // nil: none
	fastPath *epoll.FastPath // says go to the sandbox that stands; nil: the service does
	starting *Slot           // from a client to the exec; nil: none
	idle     idleness

	leavingTold bool      // see noteLeaving
	calm        time.Time // when a rest after vain runs ends for clients that they could not take; zero: it is no such rest
}

// attend watches the sockets, and lets the fast path say go. In each state that waits for a
// client, from its beginning on, every socket is watched, and the queue of each was asked
// once more: no client is missed for what was lent, moved, refused or given up on the way there.
func (s *shared) attend() (until time.Time) {
	switch {
	case !isWaiting(s.state):
		s.watched = ended
	case s.watched != s.state:
		s.watched = s.state
		if s.watchAll() {
			break
		}
		if s.run != nil {
			s.run.cancel(nil) // and so StartFailed will be reported: a rest, and a mend
			break
		}
		s.handle(onStartFailed)
		return s.attend()
	}
	until = s.watchProgram()
	s.armFastPath()
	return until
}

func (s *shared) settle() { s.disarmFastPath() }

// act carries out an action. It returns the event that follows at once, if one
// does.
func (s *shared) act(a action) (next event, follows bool) {
	switch a {
	case doNothing:
	case doWatch:
		s.limit(0)
		s.queueBuild()
	case doQueue:
		s.queueBuild()
	case doPrepare:
		return s.prepareSandbox()
	case doKeep:
		return s.keepSandbox()
	case doDefer:
		s.postponeSandbox()
	case doDiscard:
		s.discardSandbox()
		s.queueBuild()
	case doClaim:
		return s.claimSandbox()
	case doGo:
		return s.releaseSandbox()
	case doStart:
		return s.startRun()
	case doServe:
		return s.beginServing()
	case doLook:
		return s.lookForClients()
	case doAwait, doStop, doKill:
		s.endWithin(s.spec.StopTimeout, a)
	case doAbort:
		s.abortRun()
	case doRest:
		return s.endRun()
	case doCount:
		s.lookWhileResting()
	case doRefuse:
		s.refuseClients()
		s.watchAll()
	case doRelease:
		s.until, s.hold = time.Time{}, time.Time{}
		s.leaveQueue()
		s.starting.End()
	}
	return 0, false
}

// endWithin has the program end: by itself, when it is asked to, or at once.
func (s *shared) endWithin(limit time.Duration, a action) {
	s.limit(limit)
	switch a {
	case doAwait:
		s.run.handover.Leave()
	case doStop:
		s.stopRun()
	case doKill:
		s.sayMissing()
		s.killRun()
	}
}

// called takes in that there is a client.
func (s *shared) called(socket *listen.Socket) {
	s.caller = socket
	s.handle(onClient)
}

func (s *shared) given() { s.handle(onSlot) }

// endNext keeps the slot until the process is gone.
func (s *shared) endNext(*Slot) (more bool) {
	s.handle(onEnd)
	return false
}

func (s *shared) done() bool { return s.state == ended }

func (s *shared) close() {
	s.dropFastPath()
	s.starting.End()
}

// startRun makes a process for a client and leaves the rest of its birth to a
// goroutine.
func (s *shared) startRun() (event, bool) {
	_, _ = s.claimSandbox()
	return s.startCold()
}

func (s *shared) startCold() (event, bool) {
	if err := s.launch(process.ClientWaiting); err != nil {
		s.log.Error("service not started", "err", err)
		s.said = append(s.said, "err", err)
		return onStartFailed, true
	}
	return 0, false
}

func (s *shared) launch(client process.Client) (err error) {
	s.run, err = s.launchRun(client)
	return err
}

// stopRun asks the program to end; a start under way is given up.
func (s *shared) stopRun() {
	killed, err := s.run.stop(s.spec.StopSignal)
	s.noteSignal(s.run, killed, err)
}

// noteSignal logs what came of a stop signal, if it is not the usual. Any goroutine may call it
// for a program that runs.
func (s *shared) noteSignal(p *run, killed bool, err error) {
	if err != nil {
		s.log.Error("service not signalled", "pid", p.child.Pid(), "err", err)
	}
	if killed {
		s.log.Info("service killed: as pid 1 of its namespace it ignores a signal it does not catch", "pid", p.child.Pid(), "signal", s.spec.StopSignal.String())
	}
}

// killRun ends a program that did not end by its stop signal, or a start.
func (s *shared) killRun() {
	switch p, signal := s.run, s.spec.StopSignal; {
	case p.stage < stageRunning: // that the start has failed will be said
	case p.asked && p.child.LostHandler(signal):
		s.log.Warn("service killed: its time is over; it has no handler for its stop signal any more, and as pid 1 of its namespace no default action: "+
			spec.InitLine+" below [sandbox] gives it one", "pid", p.pid(), "signal", signal.String())
		if s.around.Trial != nil {
			s.around.Trial.Found(spec.Finding{Line: spec.InitLine})
		}
	default:
		s.log.Warn("service killed: its time is over", "pid", p.pid())
	}
	s.run.kill()
}

// receive takes in what the process's goroutines report.
func (s *shared) receive(r report) {
	if r.of != s.run {
		return
	}
	s.run.noteReport(r)
	switch {
	case r.prepared != nil:
		s.handle(onPrepared)
	case r.failed != nil:
		s.noteFailure(r, false)
		s.starting.End()
		switch {
		case isWaiting(s.state):
			s.logLoss(r.failed)
		case s.state != ending:
			s.log.Error("service not started", "err", r.failed)
		}
		s.handle(onStartFailed)
	case r.exited != nil:
		s.noteEnd(r)
		s.handle(onExited)
	case r.running:
		s.starting.End()
		if s.state == ending || s.state == aborting {
			s.handle(onUp) // it came too late, and goes at once
		}
	case r.told != nil:
		s.noteMessage(*r.told)
	case r.serving:
		if s.state == starting && !s.spec.Notify {
			s.noteUp()
		}
	}
}

// noteEnd has the next line say how the program ended, and with what words if it failed. So do the lines about
// clients that are turned away meanwhile.
func (s *shared) noteEnd(r report) {
	s.lastEnd = []any{"exit", r.exited.String()}
	if s.run.failed && s.run.words != "" {
		s.lastEnd = append(s.lastEnd, "stderr", s.run.words)
	}
	s.said = append(append(s.said, "pid", s.run.pid()), s.lastEnd...)
	s.said = append(s.said, "ran", time.Since(s.run.started).Round(time.Microsecond))
	s.observe = false
	s.noteFailure(r, s.run.endedEarly())
}

func (s *shared) noteUp() {
	s.run.stage = stageUp
	s.run.handover.Up()
	s.said = append(s.said, "pid", s.run.pid(), "after", time.Since(s.run.started).Round(time.Microsecond))
	s.handle(onUp)
}

// logWords logs what the program says of itself that changes nothing.
func (s *shared) logWords(m notify.Message) {
	if m.HasStatus {
		s.log.Info("service status", "pid", s.run.pid(), "status", m.Status)
	}
	var attrs []any
	if m.Errno != 0 {
		attrs = append(attrs, "err", m.Errno.Error())
	}
	if m.BusError != "" {
		attrs = append(attrs, "bus", m.BusError)
	}
	if m.ExitStatus != "" {
		attrs = append(attrs, "exit", m.ExitStatus)
	}
	if attrs != nil {
		s.log.Warn("service tells of an error", append([]any{"pid", s.run.pid()}, attrs...)...)
	}
}

// noteMessage takes in what the program itself says, see sd_notify(3).
func (s *shared) noteMessage(m notify.Message) {
	s.logWords(m)
	if m.MainPID > 0 {
		if err := s.run.child.SetMain(m.MainPID); err != nil {
			s.log.Warn("main process not followed", "pid", s.run.pid(), "err", err)
		}
	}
	if s.state != running && !s.until.IsZero() && time.Until(s.until) < m.ExtendTimeout { // it never shortens
		s.limit(m.ExtendTimeout)
	}
	if m.Ready && s.state == starting {
		s.noteUp()
	}
	if m.Stopping && s.state != stopping {
		s.handle(onLeaving)
	}
	s.noteLife(m)
}

// endRun ends a run: the sockets are made fit for the next one, the run is
// counted, and the clients that are still there are looked at.
func (s *shared) endRun() (event, bool) {
	s.limit(0)
	s.starting.End()
	var ran time.Duration
	up, failed, left := false, true, false
	p := s.run
	if p != nil {
		ran, up, failed, left = time.Since(p.started), p.stage == stageUp, p.failed, !p.asked && p.exit.OK()
		s.run = nil
	}
	if s.around.Trial != nil {
		s.around.Trial.Ended(failed)
	}
	s.mendSockets()
	if s.healPending {
		s.healNodes()
	}
	if up && s.spec.Hold > 0 && ran >= s.spec.Hold {
		s.queues = newQueues(len(s.sockets)) // a client that waits now did not wait for a start
	}
	moved := s.lookAtQueues()
	vain := p != nil && !failed && !p.asked && !moved && ran < time.Second && s.onlyStand(p.started)
	delay := s.earnRest(ran, failed, vain)
	if up && left && ran < time.Second {
		s.noteLeaving(p)
	}
	if delay == 0 {
		return onTimeout, true
	}
	s.said = append(s.said, "for", delay)
	s.limit(delay)
	s.watchAll() // a client that comes now is counted, and starts nothing
	return 0, false
}

// earnRest counts a run that has lasted ran, and returns the rest that it has earned.
func (s *shared) earnRest(ran time.Duration, failed, vain bool) (delay time.Duration) {
	now := time.Now()
	s.calm = time.Time{}
	if s.history.countVain(vain) {
		failed, s.calm = true, now.Add(s.spec.RestartDelay)
	}
	if failed || s.idle.stopped.IsZero() { // ended for idleness it has its own measure against loops
		s.history, delay = s.history.rest(s.spec.Timeouts, ran, failed, now)
	}
	return delay
}

// lookWhileResting counts the clients that have come. One that does not wait behind those whom the last runs did not take does
// not rest for them.
func (s *shared) lookWhileResting() {
	if s.lookAtQueues(); !s.calm.IsZero() && !s.onlyStand(s.calm.Add(-s.spec.RestartDelay)) {
		s.until = firstOf(s.until, s.calm)
	}
}

// mendSockets repairs what the last run did to the sockets.
func (s *shared) mendSockets() {
	for _, socket := range s.sockets {
		what, err := socket.Mend()
		if err != nil {
			s.log.Error("socket not mended", "socket", socket.String(), "err", err)
		} else if what != "" {
			s.log.Warn("socket mended", "socket", socket.String(), "was", what)
		}
	}
}

// sayMissing says why the program is not up, of one whose time is over.
func (s *shared) sayMissing() {
	if s.state != aborting {
		return
	}
	missing := s.run.handover.DescribeMissing()
	if missing == "" && s.spec.Notify && s.run.stage == stageRunning {
		missing = "it has not said READY=1, sd_notify(3), within start_timeout: write notify = false if it never does, or a longer start_timeout"
	}
	if missing != "" {
		s.log.Error("service not started: "+missing, "pid", s.run.pid())
	}
}
