package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"activator/internal/process"

	"activator/internal/notify"
	"activator/internal/spec"
	"activator/internal/usernotif"
)

// instance is one run of the program, from the first system call for it to its
// reaping.
type instance struct {
	cancel  context.CancelFunc // gives up a start that is under way
	started time.Time
	ahead   bool                  // it was made before a client was there, and waits for the word to go
	claimed bool                  // a client is there
	went    time.Time             // the fast path has said go; zero: it has not
	stands  *process.Process      // the sandbox, with ahead; nil until it is built
	outputs []outputFile          // files it prints to
	running *process.Process      // nil until the program was exec'ed
	answers *usernotif.Supervisor // of its calls; nil: none
	carrier *carrier              // of its connections; nil: none
	up      bool                  // it ran, with notify: it said so
	failed  bool                  // it crashed, or never ran
	asked   bool                  // we asked it to end: how it does is no failure
}

// report is one thing that a process's goroutines tell the service; exactly one
// of the pointers is set.
type report struct {
	of      *instance
	stands  *process.Process      // the sandbox is built, and waits for the word
	running *process.Process      // the program was exec'ed
	answers *usernotif.Supervisor // with running
	carrier *carrier              // with running
	serving bool                  // it listens at all its targets
	told    *notify.Message       // it said something
	failed  error                 // there is no program, and no process left
	exited  *process.Exit         // it is gone and reaped
}

func (p *instance) pid() int {
	if p == nil || p.running == nil {
		return 0
	}
	return p.running.Pid()
}

// stop asks the program to end; a start under way is given up.
func (p *instance) stop(sig syscall.Signal, log *slog.Logger) {
	p.asked = true
	if p.running == nil {
		p.cancel()
		return
	}
	p.carrier.leave() // before it stops listening
	p.signal(sig, log)
}

func (p *instance) signal(sig syscall.Signal, log *slog.Logger) {
	killed, err := p.running.Stop(sig)
	if err != nil {
		log.Error("service not signalled", "pid", p.pid(), "err", err)
	} else if killed {
		log.Info("service killed: as pid 1 of its namespace it ignores a signal it does not catch", "pid", p.pid(), "signal", sig.String())
	}
}

// stopIf asks a program that runs to end, if still is true while it stands still.
func (p *instance) stopIf(sig syscall.Signal, still func() bool, log *slog.Logger) bool {
	stopped, killed, err := p.running.StopIf(sig, still)
	if err != nil {
		log.Error("service not signalled", "pid", p.pid(), "err", err)
	}
	if killed {
		log.Info("service killed: as pid 1 of its namespace it ignores a signal it does not catch", "pid", p.pid(), "signal", sig.String())
	}
	p.asked = p.asked || stopped
	return stopped
}

// kill ends a program that did not end by sig, or a start.
func (p *instance) kill(sig syscall.Signal, log *slog.Logger) {
	lapsed := p.asked && p.running != nil && p.running.Lapsed(sig)
	p.asked = false
	switch {
	case p.running == nil:
		p.cancel()
		return
	case lapsed:
		log.Warn("service killed: its time is over; it has no handler for its stop signal any more, and as pid 1 of its namespace no default action: "+
			"init = true below [sandbox] gives it one", "pid", p.pid(), "signal", sig.String())
	default:
		log.Warn("service killed: its time is over", "pid", p.pid())
	}
	p.running.Kill()
}

// clean tells a run that ended as a program ends: exit 0, or by one of the
// signals that ask for it, as in systemd.service(5), SuccessExitStatus=.
func clean(e process.Exit) bool {
	switch e.Signal {
	case 0:
		return e.Code == 0
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE:
		return true
	}
	return false
}

// launch lends the sockets to a new process and starts the goroutine that sees it
// through. Ahead of a client the process waits for [process.Process.Release].
func (s *Service) launch(ahead bool) error {
	ctx, cancel := context.WithCancel(context.Background())
	p := &instance{cancel: cancel, started: time.Now(), failed: true, ahead: ahead}
	s.process = p
	files, err := s.lend(ahead)
	if err != nil {
		cancel()
		return process.Cured(err)
	}
	streams, err := s.open()
	if err != nil {
		cancel()
		return process.Cured(err)
	}
	p.outputs = streams.outputs()
	s.working.Go(func() {
		defer cancel()
		s.live(ctx, p, streams, files)
	})
	return nil
}

func (s *Service) lend(ahead bool) ([]*os.File, error) {
	files := make([]*os.File, len(s.sockets))
	for i, socket := range s.sockets {
		lend := socket.Lend
		if ahead {
			lend = socket.LendAhead
		}
		f, err := lend()
		if err != nil {
			return nil, fmt.Errorf("%v: %w", socket, err)
		}
		files[i] = f
	}
	return files, nil
}

// live is the life of a process: made, told to go, listened to, reaped.
func (s *Service) live(ctx context.Context, p *instance, streams streams, files []*os.File) {
	given := process.Given{Stdio: streams.child(), Sockets: s.inherited(files), Engine: s.around.Engine}
	switch {
	case p.ahead:
		given.Client = process.Absent
	case s.spec.Handover != spec.Proxy:
		given.Client = process.There
	}
	child, err := s.around.Starter.Prepare(ctx, s.spec.Process, given)
	streams.handedOver()
	var carrier *carrier
	if err == nil {
		if carrier, err = s.newCarrier(child); err != nil {
			_ = child.Close()
		}
	}
	if err != nil {
		streams.close()
		s.tell(report{of: p, failed: process.Cured(err)})
		return
	}
	if p.ahead {
		s.tell(report{of: p, stands: child})
	} else if err = child.Release(); err != nil {
		child.Kill()
	}
	if started := child.Started(ctx); err == nil {
		err = started
	}
	pumps := streams.copy(s.around.Sink, s.spec.Name, child.Pid())
	if err != nil {
		_ = child.Close()
		carrier.end()
		pumps.wait()
		s.tell(report{of: p, failed: err})
		return
	}
	calls, answered := s.answerCalls(child, files)
	s.tell(report{of: p, running: child, answers: calls, carrier: carrier})
	s.carry(carrier, p, files)
	heard := s.listenTo(p, child)
	served := s.awaitServing(p, calls)
	exit, err := child.Wait()
	if err != nil {
		s.log.Error("service not waited for", "pid", child.Pid(), "err", err)
	}
	heard()
	served()
	carrier.end()
	answered()
	pumps.wait()
	s.tell(report{of: p, exited: &exit})
	_ = child.Close()
}

// tell hands a report to the service's goroutine, if it is still there.
func (s *Service) tell(r report) {
	select {
	case s.reports <- r:
	case <-s.over:
	}
}

// answerCalls answers the system calls that the program's filter hands over, if it
// does, until the function it returns is called. Lends files until then.
func (s *Service) answerCalls(child *process.Process, files []*os.File) (supervisor *usernotif.Supervisor, end func()) {
	listener := child.Listener()
	if listener == nil {
		return nil, func() {}
	}
	supervisor, err := usernotif.New(listener, s.policy(child, files))
	if err != nil {
		s.log.Error("calls not answered", "pid", child.Pid(), "err", err)
		return nil, func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if err := supervisor.Run(ctx); err != nil {
			s.log.Error("calls not answered any more", "pid", child.Pid(), "err", err)
		}
	}()
	return supervisor, func() {
		cancel()
		<-gone
		_ = supervisor.Close()
	}
}

// listenTo passes on what the program says over its notify socket, until the
// function it returns is called.
func (s *Service) listenTo(p *instance, child *process.Process) (end func()) {
	file := child.NotifySocket()
	if file == nil {
		return func() {}
	}
	socket, err := notify.Adopt(file)
	if err != nil {
		s.log.Error("notify socket", "pid", child.Pid(), "err", err)
		return func() {}
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		s.passOn(p, socket, child.Pid(), done)
	}()
	return func() {
		close(done)
		_ = socket.Close() // ends Receive
		<-gone
	}
}

// A program says a few things in its life. One that says more than chatter gets
// an ear every chatterPause only, and waits in its own send(2): each message may
// be a line of the log or a search through /proc.
const (
	chatter      = 100
	chatterPause = 50 * time.Millisecond
)

// passOn reports messages until the socket is closed, done being closed before.
func (s *Service) passOn(p *instance, socket *notify.Socket, pid int, done <-chan struct{}) {
	for said := 0; ; said++ {
		if said >= chatter {
			select {
			case <-done:
				return
			case <-time.After(chatterPause):
			}
		}
		m, _, err := socket.Receive(context.Background())
		var bad *notify.BadMessage
		if err != nil && !errors.As(err, &bad) {
			if !errors.Is(err, os.ErrClosed) {
				s.log.Error("notify socket", "pid", pid, "err", err)
			}
			return
		}
		if err != nil {
			s.log.Warn("notify message", "pid", pid, "err", err)
		}
		s.tell(report{of: p, told: &m})
	}
}
