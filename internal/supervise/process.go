package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"activator/internal/intercept"
	"activator/internal/notify"
	"activator/internal/output"
	"activator/internal/spawn"
)

// process is one run of the program, from the first system call for it to its
// reaping.
type process struct {
	cancel  context.CancelFunc // gives up a start that is under way
	started time.Time
	running *spawn.Process // nil until the program was exec'ed
	up      bool           // it ran, with notify: it said so
	failed  bool           // it crashed, or never ran
	asked   bool           // we asked it to end: how it does is no failure
}

// report is one thing that a process's goroutines tell the service; exactly one
// of the pointers is set.
type report struct {
	of      *process
	running *spawn.Process  // the program was exec'ed
	told    *notify.Message // it said something
	failed  error           // there is no program, and no process left
	exited  *spawn.Exit     // it is gone and reaped
}

func (p *process) pid() int {
	if p == nil || p.running == nil {
		return 0
	}
	return p.running.Pid()
}

// stop asks the program to end; a start under way is given up.
func (p *process) stop(sig syscall.Signal, log *slog.Logger) {
	p.asked = true
	if p.running == nil {
		p.cancel()
		return
	}
	killed, err := p.running.Stop(sig)
	if err != nil {
		log.Error("service not signalled", "pid", p.pid(), "err", err)
	} else if killed {
		log.Info("service killed: as pid 1 of its namespace it ignores a signal it does not catch", "pid", p.pid(), "signal", sig.String())
	}
}

func (p *process) kill(log *slog.Logger) {
	p.asked = false
	if p.running == nil {
		p.cancel()
		return
	}
	log.Warn("service killed: its time is over", "pid", p.pid())
	p.running.Kill()
}

// clean tells a run that ended as a program ends: exit 0, or by one of the
// signals that ask for it, as in systemd.service(5), SuccessExitStatus=.
func clean(e spawn.Exit) bool {
	switch e.Signal {
	case 0:
		return e.Code == 0
	case syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGPIPE:
		return true
	}
	return false
}

// launch lends the sockets to a new process and starts the goroutine that sees
// it through.
func (s *Service) launch() error {
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{cancel: cancel, started: time.Now(), failed: true}
	s.process = p
	files := make([]*os.File, len(s.sockets))
	for i, socket := range s.sockets {
		f, err := socket.Lend()
		if err != nil {
			cancel()
			return fmt.Errorf("%v: %w", socket, err)
		}
		files[i] = f
	}
	streams, err := s.open()
	if err != nil {
		cancel()
		return err
	}
	s.working.Go(func() {
		defer cancel()
		s.live(ctx, p, streams, files)
	})
	return nil
}

// live is the life of a process: made, told to go, listened to, reaped.
func (s *Service) live(ctx context.Context, p *process, streams streams, files []*os.File) {
	child, err := s.around.Starter.Prepare(ctx, s.spec.Process, streams.child(), files)
	streams.handedOver()
	if err != nil {
		streams.close()
		s.reports <- report{of: p, failed: err}
		return
	}
	pumps := streams.copy(s.around.Sink, s.spec.Name(), child.Pid())
	if err = child.Go(ctx); err != nil {
		child.Close()
		pumps.wait()
		s.reports <- report{of: p, failed: err}
		return
	}
	answered := s.answerCalls(child)
	s.reports <- report{of: p, running: child}
	heard := s.listenTo(p, child)
	exit, err := child.Wait()
	if err != nil {
		s.log.Error("service not waited for", "pid", child.Pid(), "err", err)
	}
	heard()
	answered()
	pumps.wait()
	s.reports <- report{of: p, exited: &exit}
	child.Close()
}

// answerCalls answers the system calls that the program's filter hands over, if it
// does, until the function it returns is called.
func (s *Service) answerCalls(child *spawn.Process) (end func()) {
	listener := child.Listener()
	if listener == nil {
		return func() {}
	}
	connect := s.spec.Process.Sandbox.Connect
	policy := intercept.Policy{Netns: child.NetnsCookie(), Unix: connect == "unix" || connect == "any", IP: connect == "any"}
	if s.spec.Process.Notify {
		policy.Notify = spawn.NotifyPath
	}
	supervisor, err := intercept.New(listener, policy)
	if err != nil {
		s.log.Error("calls not answered", "pid", child.Pid(), "err", err)
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if err := supervisor.Run(ctx); err != nil {
			s.log.Error("calls not answered any more", "pid", child.Pid(), "err", err)
		}
	}()
	return func() {
		cancel()
		<-gone
		_ = supervisor.Close()
	}
}

// listenTo passes on what the program says over its notify socket, until the
// function it returns is called.
func (s *Service) listenTo(p *process, child *spawn.Process) (end func()) {
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
func (s *Service) passOn(p *process, socket *notify.Socket, pid int, done <-chan struct{}) {
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
		s.reports <- report{of: p, told: &m}
	}
}

// stream is where one of the program's output descriptors leads.
type stream struct {
	name  string
	child *os.File // lent to the child; ours to close unless inherited
	ours  *os.File // the pipe's other end; nil when there is no pipe
	keep  bool     // child is our own stdout or stderr
}

// streams are stdout and stderr.
type streams [2]stream

// open makes the streams as the specification names them.
func (s *Service) open() (streams, error) {
	var all streams
	for i, spec := range []struct {
		name, to string
		own      *os.File
	}{{"stdout", s.spec.Stdout, os.Stdout}, {"stderr", s.spec.Stderr, os.Stderr}} {
		one, err := openStream(spec.name, spec.to, spec.own)
		if err != nil {
			all.handedOver()
			all.close()
			return streams{}, err
		}
		all[i] = one
	}
	return all, nil
}

func openStream(name, to string, own *os.File) (stream, error) {
	st := stream{name: name}
	var err error
	switch to {
	case "log", "":
		st.ours, st.child, err = output.Pipe()
	case "inherit":
		st.child, st.keep = own, true
	case "null":
		st.child, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	default:
		st.child, err = output.OpenFile(to)
	}
	if err != nil {
		return stream{}, fmt.Errorf("%s: %w", name, err)
	}
	return st, nil
}

func (all *streams) child() spawn.Stdio {
	return spawn.Stdio{Out: all[0].child, Err: all[1].child}
}

// handedOver closes our copies of what the child now has.
func (all *streams) handedOver() {
	for i := range all {
		if st := &all[i]; st.child != nil && !st.keep {
			_ = st.child.Close()
			st.child = nil
		}
	}
}

// close closes the ends that nobody copies from.
func (all *streams) close() {
	for i := range all {
		if st := &all[i]; st.ours != nil {
			_ = st.ours.Close()
			st.ours = nil
		}
	}
}

// pumps copy a program's output to the log.
type pumps []*output.Pump

func (all *streams) copy(sink *output.Sink, service string, pid int) pumps {
	var running pumps
	for _, st := range all {
		if st.ours != nil {
			running = append(running, sink.Copy(st.ours, service, st.name, pid))
		}
	}
	return running
}

// wait waits until everything the program printed is in the log. Whoever else
// may hold the pipe (a container's monitor) gets no longer than lingering.
func (ps pumps) wait() {
	for _, p := range ps {
		p.Finish(lingering)
	}
}

// lingering is how long output may still come after the exit.
const lingering = 100 * time.Millisecond
