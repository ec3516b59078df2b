package service

import (
	"errors"
	"time"

	"activator/internal/process"
)

// instance is one run of the program of an accepting service, for one client: its
// sandbox is built and stands before the client comes. It is gone when it is back in
// listening, or ended.
type instance struct {
	life
	*run
	of       *accepting
	client   *client // nil: it stands for the next one
	starting *Slot   // from the client to the exec
	end      *Slot   // to be told to end; nil: it has not been
	err      error   // why it did not start
}

// buildInstance begins an instance.
func (s *accepting) buildInstance() {
	i := &instance{of: s}
	s.counts[listening]++
	i.handle(onSlot)
}

// takeClient brings an instance that stands and its client together.
func (i *instance) takeClient(c *client) {
	i.client = c
	i.handle(onClient)
}

// handle takes one step of the table, and the ones that follow at once.
func (i *instance) handle(e event) {
	counts := &i.of.counts
	for follows := true; follows; {
		counts[i.state]--
		a := i.takeStep(e)
		counts[i.state]++
		e, follows = i.act(a)
	}
	if i.state == listening || i.state == ended {
		counts[i.state]--
		i.starting.End()
		i.end.End()
		delete(i.of.instances, i.run)
	}
}

// limit is that of its life, and has the service look at it then.
func (i *instance) limit(d time.Duration) {
	i.life.limit(d)
	i.of.soonest = firstOf(i.of.soonest, i.until)
}

// act carries out an action. It returns the event that follows at once, if one
// does.
func (i *instance) act(a action) (next event, follows bool) {
	s := i.of
	switch a {
	case doPrepare:
		i.limit(s.spec.StartTimeout)
		i.run, i.err = s.launchRun(process.ClientAbsent)
		s.observe = false
		s.instances[i.run] = i
		return onStartFailed, i.err != nil
	case doKeep:
		i.keepSandbox()
	case doDefer:
		i.loseSandbox()
	case doDiscard:
		s.leavePool(i)
		i.cancel(nil)
	case doClaim:
		s.leavePool(i)
		i.limit(s.spec.StartTimeout)
		i.run.started = time.Now()
		i.starting = s.around.Slots.StartNow()
		s.pool.noteStart(i.run.started)
		return onPrepared, true
	case doGo:
		_ = i.letGo(i.client.Connection) // and so it will be reported
	case doServe:
		i.beginServing()
	case doAwait:
		i.limit(s.spec.StopTimeout)
	case doStop:
		s.leavePool(i)
		i.limit(s.spec.StopTimeout)
		if _, err := i.stop(s.spec.StopSignal); err != nil {
			s.log.Error("instance not signalled", "pid", i.child.Pid(), "err", err)
		}
	case doKill:
		i.limit(s.spec.StopTimeout)
		if i.stage >= stageRunning {
			s.log.Warn("instance killed: its time is over", "pid", i.child.Pid())
		}
		i.kill()
	case doRest:
		i.finishRun()
		return onTimeout, true
	case doRelease:
		i.finishRun()
	}
	return 0, false
}

// keepSandbox keeps it ready for a client.
func (i *instance) keepSandbox() {
	s := i.of
	i.limit(0)
	s.log.Debug("sandbox ready", "pid", i.child.Pid())
	s.pool.refused = false
	s.warm = append(s.warm, i)
	s.beCalm()
}

// receive takes in what the process's goroutines report.
func (s *accepting) receive(r report) {
	i := s.instances[r.of]
	if i == nil {
		return // it has been discarded
	}
	i.noteReport(r)
	switch {
	case r.prepared != nil:
		i.handle(onPrepared)
	case r.running && i.state != starting: // it came too late, and goes at once
		i.handle(onUp)
	case r.serving && i.state == starting:
		i.handle(onUp)
	case r.failed != nil:
		s.noteFailure(r, false)
		i.err = r.failed
		i.handle(onStartFailed)
	case r.exited != nil:
		s.noteFailure(r, s.mayLearn(i))
		i.handle(onExited)
	}
}

// mostLearned is how many instances that have failed have another one observed: the client of that one pays for it, and a
// session may fail by its client's doing.
const mostLearned = 3

// mayLearn reports whether an instance has failed so early that its program may not work at all.
func (s *accepting) mayLearn(i *instance) bool {
	early := i.failed && time.Since(i.run.started) < earlyEnd && s.learned < mostLearned
	if early {
		s.learned++
	}
	return early
}

// beginServing is the beginning of a run.
func (i *instance) beginServing() {
	s := i.of
	i.limit(0)
	i.starting.End()
	_ = i.client.File.Close() // the program has its own copy
	if s.quiet.IsZero() {
		s.quiet = time.Now().Add(quietTime)
	}
	s.history, s.queues = history{}, newQueues(len(s.sockets))
	s.log.Info("instance running", "socket", i.client.socket.String(), "pid", i.child.Pid(), "remote", i.client.Peer.Addr, "after", time.Since(i.run.started).Round(time.Microsecond))
}

// loseSandbox is the end of a sandbox that no client has seen. One that has stood says
// nothing about the next one.
func (i *instance) loseSandbox() {
	s := i.of
	if i.stage >= stageStanding {
		s.leavePool(i)
		s.log.Warn("sandbox was gone before its client came", "err", i.err)
		s.quiet = time.Now().Add(s.lossDelay(time.Since(i.run.started)))
		if s.hasClients() && s.losses.failures > 1 {
			s.handle(onStartFailed)
		}
		return
	}
	s.log.Error("sandbox not made", "err", i.err)
	if s.kept {
		s.slot.End()
		s.slot, s.kept = nil, false
	}
	s.pool.refused = true
	if s.hasClients() {
		s.handle(onStartFailed)
	}
}

// finishRun is the end of a process that is gone. The client of one that has not become
// the program is kept for another try.
func (i *instance) finishRun() {
	s, c := i.of, i.client
	switch {
	case c == nil: // and so nothing is lost
	case i.stage >= stageRunning:
		_ = c.File.Close()
		s.giveBack(c)
		attrs := []any{"pid", i.child.Pid(), "exit", i.exit.String(), "ran", time.Since(i.run.started).Round(time.Microsecond)}
		if i.failed && i.words != "" {
			attrs = append(attrs, "stderr", i.words)
		}
		if i.failed && i.exit.Signal != 0 {
			s.log.Warn("instance failed", attrs...)
		} else { // a session's exit status is its client's doing, as that of sshd

			s.log.Info("instance ended", attrs...)
		}
	case s.state == ended:
		s.dropClient(c)
	default:
		i.returnClient()
	}
}

func (i *instance) returnClient() {
	s, c := i.of, i.client
	s.returned = append(s.returned, c)
	c.tries++
	if isGone(i.err) && c.tries == 1 {
		s.log.Warn("sandbox was gone before its client came", "err", i.err)
		return
	}
	s.log.Error("instance not started", "socket", c.socket.String(), "remote", c.Peer.Addr, "err", process.AddCure(i.err))
	s.handle(onStartFailed)
}

// isGone tells the end of a waiting sandbox from a program that cannot be started.
func isGone(err error) bool {
	var refused *process.StepError
	return errors.As(err, &refused) && (refused.Step == "hand" || refused.Step == "go")
}
