package service

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"activator/internal/fdstore"
	"activator/internal/handover"
	"activator/internal/listen"
	"activator/internal/notify"
	"activator/internal/process"
	"activator/internal/spec"
)

// stage is how far a run has come.
type stage uint8

const (
	stageBuilding stage = iota // its sandbox is being built
	stageStanding              // its sandbox waits for the word to go
	stageReleased              // the word is said, by the service or by the fast path
	stageRunning               // the program has been exec'ed
	stageUp                    // and serves; with notify: it has said so
)

// run is one run of the program, from the first system call for it to its
// reaping.
type run struct {
	stage    stage
	handover handover.Handover
	child    *process.Process        // from stageStanding on
	cancel   context.CancelCauseFunc // gives up a start that is under way
	started  time.Time               // for its client; until there is one: to be built, or to stand
	outputs  []outputFile            // files it prints to
	exit     process.Exit            // once it is gone
	words    string                  // its last ones, then
	failed   bool                    // it crashed, or never ran
	asked    bool                    // we asked it to end: how it does is no failure
	hung     bool                    // it was ended since it did nothing: however it does, it is a failure
	watchdog watchdog
	deaf     deafness
	observed spec.Observation
}

// report is one thing that a process's goroutines tell the service; exactly one
// of what follows the first is set.
type report struct {
	of       *run
	prepared *process.Process // the sandbox is built
	running  bool             // the program has been exec'ed
	serving  bool             // the program has the sockets, or listens
	told     *notify.Message  // it said something
	failed   error            // there is no program, and no process left
	exited   *process.Exit    // it is gone and reaped
	words    string           // the last line that it has printed to stderr then
	lines    []string         // the last ones
}

func (p *run) pid() int {
	if p == nil || p.stage < stageRunning {
		return 0
	}
	return p.child.Pid()
}

// stop asks the program to end; a start under way is given up.
func (p *run) stop(sig syscall.Signal) (killed bool, err error) {
	p.asked = true
	if p.stage < stageRunning {
		p.cancel(nil)
		return false, nil
	}
	p.handover.Leave() // before it stops listening
	return p.child.Stop(sig)
}

// kill ends the program, or a start, since its time is over.
func (p *run) kill() {
	p.asked = false
	if p.stage < stageRunning {
		p.cancel(context.DeadlineExceeded)
		return
	}
	p.child.Kill()
}

// abort tells a program that hangs to end. One that has not become the program yet cannot hang.
func (p *run) abort(sig syscall.Signal) error {
	p.asked, p.hung = false, true
	p.handover.Leave()
	_, err := p.child.Stop(sig)
	return err
}

// letGo says go. If that is refused, the start fails.
func (p *run) letGo(client *listen.Connection) error {
	p.stage = stageReleased
	err := p.handover.Go(client)
	if err != nil {
		p.cancel(err)
		p.child.Kill()
	}
	return err
}

// isFresh reports whether the process would be made like this again.
func (p *run) isFresh() bool {
	return p.child.IsFresh() && !slices.ContainsFunc(p.outputs, func(f outputFile) bool { return !f.isSame() })
}

// noteReport takes in what is reported of the run.
func (p *run) noteReport(r report) {
	switch {
	case r.prepared != nil:
		p.stage, p.child = stageStanding, r.prepared
	case r.running:
		p.stage = stageRunning
	case r.exited != nil:
		p.words = r.words
		p.exit, p.failed = *r.exited, p.hung || !isClean(*r.exited) && !p.asked
	}
}

// isClean tells a run that ended as a program ends: exit 0, or by one of the
// signals that ask for it, as in systemd.service(5), SuccessExitStatus=.
func isClean(e process.Exit) bool {
	switch e.Signal {
	case 0:
		return e.Code == 0
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE:
		return true
	}
	return false
}

// observation is how much of the next program is told.
func (s *Service) observation() spec.Observation {
	switch {
	case s.around.Trial != nil:
		return spec.ObservePaths
	case s.observe:
		return spec.ObserveRefusals
	}
	return spec.Unobserved
}

// launchRun lends the sockets to a new process and starts the goroutine that sees it
// through. The process is told to go by [run.letGo].
func (s *Service) launchRun(client process.Client) (*run, error) {
	ctx, cancel := context.WithCancelCause(context.Background())
	p := &run{cancel: cancel, started: time.Now(), failed: true, observed: s.observation(), watchdog: watchdog{every: s.spec.Watchdog}}
	streams, err := openStreams(s.spec.Stdout, s.spec.Stderr)
	if err == nil {
		if client == process.ClientWaiting && streams.leadToFiles() {
			client = process.ClientExpected // the files are opened before the program may run
		}
		if p.handover, err = s.handover.Begin(client); err != nil {
			streams.closeLent()
			streams.closeOurs()
		}
	}
	if err != nil {
		cancel(nil)
		return p, process.AddCure(err)
	}
	s.working.Go(func() {
		defer cancel(nil)
		s.runProcess(ctx, p, streams)
	})
	return p, nil
}

// runProcess is the life of a process: made, exec'ed when it is told to go, listened to, reaped.
func (s *Service) runProcess(ctx context.Context, p *run, streams streams) {
	given := p.handover.Given()
	if given.Observe = p.observed; p.observed == spec.ObservePaths {
		given.Asks = p.handover.Answer
	}
	given.Stdio, given.Engine = streams.lendEnds(), s.around.Engine
	if s.around.Group != nil {
		given.Group = s.around.Group
	}
	child, err := s.prepareChild(ctx, given)
	streams.closeLent()
	if err != nil {
		streams.closeOurs()
		p.handover.End()
		s.sendReport(report{of: p, failed: process.AddCure(err)})
		return
	}
	if err = streams.openTargets(s.around.Sink, s.spec.Name); err == nil {
		p.outputs = streams.listFiles()
		err = p.handover.Attach(child)
	}
	if err = process.AddCure(err); err == nil {
		s.sendReport(report{of: p, prepared: child})
		err = child.AwaitExec(ctx)
	}
	pumps := streams.startPumps(s.around.Sink, s.spec.Name, child.Pid(), child.TakeSyslogSocket())
	if err != nil {
		_ = child.Close()
		p.handover.End()
		pumps.waitAll()
		s.sendReport(report{of: p, failed: err})
		return
	}
	s.sendReport(report{of: p, running: true})
	p.handover.Serve(func() { s.sendReport(report{of: p, serving: true}) })
	heard := s.listenTo(p, child)
	exit, err := child.Wait()
	if err != nil {
		s.log.Error("service not waited for", "pid", child.Pid(), "err", err)
	}
	heard()
	p.handover.End()
	pumps.waitAll()
	s.tellKilled(child.Pid())
	s.sendReport(report{of: p, exited: &exit, words: pumps.lastWords(), lines: pumps.lastLines()})
	_ = child.Close()
}

// tellKilled says of what processes have died that no program has ended.
func (s *Service) tellKilled(pid int) {
	if s.around.Group == nil {
		return
	}
	if n := s.around.Group.TakeKilled(); n > 0 {
		s.log.Warn("out of memory: the kernel has killed processes of the service", "pid", pid, "killed", n, "memory_max", s.spec.MemoryMax)
	}
}

// prepareChild makes the process, with what an earlier one has left.
func (s *Service) prepareChild(ctx context.Context, given process.Inputs) (_ *process.Process, err error) {
	if given.Stored, err = s.lendStored(); err != nil {
		return nil, err
	}
	defer fdstore.CloseAll(given.Stored.FDs)
	return s.around.Starter.Prepare(ctx, s.spec.Process, given)
}

// sendReport hands a report to the service's goroutine, if it is still there.
func (s *Service) sendReport(r report) {
	select {
	case s.reports <- r:
	case <-s.over:
	}
}

// listenTo passes on what the program says over its notify socket, until the
// function it returns is called, which passes on the rest: a program may say something with its last breath.
func (s *Service) listenTo(p *run, child *process.Process) (end func()) {
	file := child.TakeNotifySocket()
	if file == nil {
		return func() {}
	}
	socket, err := notify.AdoptSocket(file)
	if err != nil {
		s.log.Error("notify socket", "pid", child.Pid(), "err", err)
		return func() {}
	}
	if s.store != nil {
		socket.TakeFiles()
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.passOn(ctx, p, socket, child.Pid())
	}()
	return func() {
		cancel()
		<-gone
		s.passRest(p, socket, child.Pid())
		_ = socket.Close()
	}
}

// A program says a few things in its life, and now and then that it is alive. One that says more than
// chatter at once gets an ear every chatterPause only, and waits in its own send(2): each message may
// be a line of the log or a search through /proc.
const (
	chatter      = 100
	chatterPause = 50 * time.Millisecond
)

// allowance is what a program may say, which grows with time.
type allowance struct {
	due time.Time // when all of it is there again
}

// take takes a message from it, and returns how long to wait until it is there.
func (a *allowance) take(now time.Time) (pause time.Duration) {
	if full := now.Add(-chatter * chatterPause); a.due.Before(full) {
		a.due = full
	}
	a.due = a.due.Add(chatterPause)
	return max(0, a.due.Sub(now))
}

// passOn reports messages until ctx is done.
func (s *Service) passOn(ctx context.Context, p *run, socket *notify.Socket, pid int) {
	for said := (allowance{}); ; {
		if pause := said.take(time.Now()); pause > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
		m, fds, _, err := socket.ReceiveFiles(ctx)
		var bad *notify.BadMessage
		if err != nil && !errors.As(err, &bad) {
			if ctx.Err() == nil {
				s.log.Error("notify socket", "pid", pid, "err", err)
			}
			return
		}
		s.passMessage(p, pid, m, fds, err)
	}
}

// passRest reports what a program that has ended has said; of one that has said very much, the first of it.
func (s *Service) passRest(p *run, socket *notify.Socket, pid int) {
	for range chatter {
		m, fds, found, err := socket.ReceiveLeft()
		if !found {
			return
		}
		s.passMessage(p, pid, m, fds, err)
	}
}

// passMessage reports one message. It takes fds.
func (s *Service) passMessage(p *run, pid int, m notify.Message, fds []int, bad error) {
	if bad != nil {
		s.log.Warn("notify message", "pid", pid, "err", bad)
	}
	s.keepFiles(pid, m, fds)
	s.sendReport(report{of: p, told: &m})
}
