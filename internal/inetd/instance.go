package inetd

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"activator/internal/process"
	"activator/internal/service"
)

// instance is one run of the program, for one client.
type instance struct {
	*sandbox
	client   *client
	cancel   context.CancelFunc // gives up the start
	started  time.Time
	starting *service.StartSlot // from the client to the exec
	running  bool               // it was exec'ed
	asked    bool               // we asked it to end: how it does is no failure
}

// start gives a client the sandbox that has stood longest, and leaves the rest
// to a goroutine.
func (s *Service) start(c *client) {
	one := s.pool.ready[0]
	s.pool.ready = s.pool.ready[1:]
	now := time.Now()
	s.pool.count(now)
	ctx, cancel := context.WithCancel(context.Background())
	if s.spec.StartTimeout > 0 {
		ctx, cancel = context.WithTimeout(context.Background(), s.spec.StartTimeout)
	}
	i := &instance{sandbox: one, client: c, cancel: cancel, started: now}
	s.instances[i] = true
	s.starting++
	i.starting = s.around.Slots.StartNow()
	handed := one.handover.Go(c.Connection) // here and now: another goroutine may wait for its turn
	s.working.Go(func() {
		defer cancel()
		s.live(ctx, i, handed)
	})
}

// live is the life of an instance that was told of its client: exec'ed, reaped.
func (s *Service) live(ctx context.Context, i *instance, err error) {
	if err == nil {
		err = i.child.AwaitExec(ctx)
	}
	if err != nil {
		_ = i.child.Close()
		i.output.Close()
		s.reports <- unstarted{i, err}
		return
	}
	i.handover.Serve(func() {})
	_ = i.client.File.Close() // the program has its own copy
	s.reports <- running{i}
	exit, err := i.child.Wait()
	if err != nil {
		s.log.Error("instance not waited for", "pid", i.child.Pid(), "err", err)
	}
	i.handover.End()
	s.reports <- exited{i, exit}
	i.output.Close()
	_ = i.child.Close()
}

// unstarted says that an instance has not become the program.
type unstarted struct {
	*instance
	err error
}

// to keeps the client for another try. A sandbox that died while it waited says
// nothing about the next one.
func (u unstarted) to(s *Service) {
	delete(s.instances, u.instance)
	s.starting--
	u.starting.End()
	c := u.client
	if s.leaving {
		s.drop(c)
		return
	}
	s.returned = append(s.returned, c)
	c.tries++
	if gone(u.err) && c.tries == 1 {
		s.log.Warn("sandbox was gone before its client came", "err", u.err)
		return
	}
	s.log.Error("instance not started", "socket", c.socket.String(), "remote", c.Peer.Addr, "err", process.AddCure(u.err))
	s.rest()
}

// gone tells the end of a waiting sandbox from a program that cannot be started.
func gone(err error) bool {
	var refused *process.StepError
	return errors.As(err, &refused) && (refused.Step == "hand" || refused.Step == "go")
}

// running says that an instance has become the program.
type running struct{ *instance }

func (r running) to(s *Service) {
	i := r.instance
	i.running = true
	s.starting--
	i.starting.End()
	if s.quiet == nil {
		s.quiet = time.NewTimer(quiet)
	}
	s.history, s.queues = service.History{}, service.Queues{}
	s.log.Info("instance running", "socket", i.client.socket.String(), "pid", i.child.Pid(), "remote", i.client.Peer.Addr, "after", time.Since(i.started).Round(time.Microsecond))
	if s.leaving {
		s.stop(i)
	}
}

// exited says how an instance has ended.
type exited struct {
	*instance
	exit process.Exit
}

func (e exited) to(s *Service) {
	delete(s.instances, e.instance)
	s.release(e.client)
	attrs := []any{"pid", e.child.Pid(), "exit", e.exit.String(), "ran", time.Since(e.started).Round(time.Microsecond)}
	if service.Clean(e.exit) || e.asked {
		s.log.Info("instance ended", attrs...)
		return
	}
	s.log.Warn("instance failed", attrs...)
}

// end begins the end: nobody is accepted any more, and the instances are asked to
// go.
func (s *Service) end() {
	s.leaving = true
	s.unwatch()
	for _, cancel := range s.pool.making {
		cancel()
	}
	for _, one := range s.pool.ready {
		s.discard(one)
	}
	s.pool.ready = nil
	for _, c := range s.returned {
		s.drop(c)
	}
	s.returned = nil
	s.inTurn(func(i *instance) {
		if !i.asked {
			s.stop(i)
		}
	})
	if s.spec.StopTimeout > 0 {
		s.ending = time.NewTimer(s.spec.StopTimeout)
	}
	if len(s.instances) > 0 {
		s.log.Info("service ending", "state", "ending", "instances", len(s.instances))
	}
}

// gone reports whether nothing is left.
func (s *Service) gone() bool {
	return s.leaving && len(s.instances) == 0 && len(s.pool.making) == 0
}

// stop asks an instance to end; a start under way is given up.
func (s *Service) stop(i *instance) {
	i.asked = true
	if !i.running {
		i.cancel()
		return
	}
	if _, err := i.child.Stop(s.spec.StopSignal); err != nil {
		s.log.Error("instance not signalled", "pid", i.child.Pid(), "err", err)
	}
}

// kill ends the instances whose time is over.
func (s *Service) kill() {
	s.inTurn(func(i *instance) {
		i.asked = false
		s.log.Warn("instance killed: its time is over", "pid", i.child.Pid())
		i.child.Kill()
	})
}

// Linux 6.18 stands still for good when about a thousand seccomp filters die at
// once, so that instances are ended in turn.
const (
	endAtOnce = 64
	endPause  = 100 * time.Millisecond
)

// inTurn does to each instance there is what is to be done, a few at a time.
func (s *Service) inTurn(do func(*instance)) {
	s.due, s.do = slices.Collect(maps.Keys(s.instances)), do
	s.advance()
}

// advance does it to the next few.
func (s *Service) advance() {
	for n := 0; n < endAtOnce && len(s.due) > 0; n++ {
		i := s.due[0]
		s.due = s.due[1:]
		if s.instances[i] {
			s.do(i)
		}
	}
	if s.turn != nil {
		s.turn.Stop()
		s.turn = nil
	}
	if len(s.due) > 0 {
		s.turn = time.NewTimer(endPause)
	}
}
