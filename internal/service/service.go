package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"activator/internal/epoll"
	"activator/internal/handover"
	"activator/internal/listen"
	"activator/internal/notify"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/spec"
)

// Surroundings are what all services of an activator share. They are lent.
type Surroundings struct {
	Starter *process.Starter
	Watcher *listen.Watcher
	Sink    *output.Sink
	Slots   *StartSlots

	Engine process.Engine // of this service alone, in place of its program; nil: none
}

// Service is one service at work. Its fields belong to the goroutine in [Run].
type Service struct {
	spec     spec.Service
	around   Surroundings
	sockets  []*listen.Socket
	handover handover.Service // of them
	log      *slog.Logger

	clients chan *listen.Socket // from the watcher: the first that became readable
	gone    chan struct{}       // from the watcher: the fast path has said go
	healing chan struct{}       // from the watcher: a node was touched
	reports chan report         // from the process's goroutines
	over    chan struct{}       // closed when nobody receives them any more
	working sync.WaitGroup      // those goroutines

	state       state
	watched     state           // in which the sockets were asked last; ended: in none since the service has waited last
	caller      *listen.Socket  // who woke the service
	process     *instance       // nil: none
	fastPath    *epoll.FastPath // says go to the sandbox that stands; nil: the service does
	history     history
	losses      history    // of sandboxes that stood for nobody
	slot        *StartSlot // to build the next sandbox, and its place while it stands; nil: none
	starting    *StartSlot // from a client to the exec; nil: none
	queues      queues
	idle        idleness
	timer       *time.Timer // of the state; nil: none runs
	until       time.Time   // when it fires
	hold        *time.Timer // of the client that has waited longest; nil: none runs
	healPending bool        // a node was touched while its socket was being handed over
	said        []any       // attributes for the next line about a state
}

// New makes a service of sockets, which are lent until Run has returned.
func New(service spec.Service, around Surroundings, sockets []*listen.Socket) *Service {
	s := &Service{
		spec:    service,
		around:  around,
		sockets: sockets,
		log:     around.Sink.Logger().With("service", service.Name),
		clients: make(chan *listen.Socket, 1),
		gone:    make(chan struct{}, 1),
		healing: make(chan struct{}, 1),
		reports: make(chan report),
		over:    make(chan struct{}),
		watched: ended,
		queues:  newQueues(len(sockets)),
	}
	s.handover = handover.Service{Spec: &s.spec, Sockets: sockets, Log: s.log}
	return s
}

// NodeTouched tells the service that the node of one of its sockets may have
// been deleted or replaced. It never blocks; any goroutine may call it.
func (s *Service) NodeTouched() {
	select {
	case s.healing <- struct{}{}:
	default: // a look at all nodes is due already
	}
}

// Run serves until ctx is done and the program, if one runs, has been stopped.
// Every process and goroutine it started is gone when it returns; the sockets
// stay as they are.
func (s *Service) Run(ctx context.Context) {
	defer s.working.Wait()
	defer s.unwatch()
	defer close(s.over)
	defer s.dropFastPath()
	s.handover.Disown()
	s.queue()
	s.say(slog.LevelInfo)
	for done := ctx.Done(); s.state != ended; {
		s.attend()
		s.armFastPath()
		happened := s.next(&done)
		s.disarmFastPath()
		happened()
	}
}

// attend is called whenever the service is about to wait for what happens next. In each
// state that waits for a client, from its beginning on, every socket is watched, and the
// queue of each was asked once more: what was lent, moved, refused or given up on the way
// there leaves nobody unseen.
func (s *Service) attend() {
	switch {
	case !waits(s.state):
		s.watched = ended
	case s.watched != s.state:
		s.watched = s.state
		if s.watch() {
			return
		}
		if s.process != nil {
			s.process.cancel(nil) // and so StartFailed will be reported: a rest, and a mend
			return
		}
		s.handle(onStartFailed)
		s.attend()
	}
}

// next waits until something happens, and returns what is to be done about it.
func (s *Service) next(done *<-chan struct{}) func() {
	select {
	case <-*done:
		*done = nil
		return func() { s.handle(onEnd) }
	case socket := <-s.clients:
		return func() { s.called(socket) }
	case <-s.gone:
		return func() {} // and so disarm has found
	case <-s.slot.Given():
		return func() { s.handle(onSlot) }
	case <-s.healing:
		return func() {
			if s.heal() {
				s.handle(onOutdated)
			}
		}
	case r := <-s.reports:
		return func() { s.receive(r) }
	case <-fired(s.timer):
		return s.after(&s.timer, onTimeout)
	case <-fired(s.hold):
		return s.after(&s.hold, onHoldOver)
	}
}

// called takes in that there is a client.
func (s *Service) called(socket *listen.Socket) {
	s.caller = socket
	s.handle(onClient)
}

// after is what a timer has been set for, if it is still there.
func (s *Service) after(timer **time.Timer, e event) func() {
	fired := *timer
	return func() {
		if *timer == fired {
			*timer = nil
			s.handle(e)
		}
	}
}

// fired is the channel of a timer that may not run.
func fired(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

// handle takes one step of the table, and the ones that follow at once.
func (s *Service) handle(e event) {
	level := slog.LevelInfo
	for follows := true; follows; {
		from, step := s.state, next(s.state, e)
		s.state = step.next
		e, follows = s.act(step.action)
		if waits(from) && waits(s.state) {
			level = slog.LevelDebug
		}
		if !follows && (s.state != from || len(s.said) > 0) {
			s.say(level)
		}
	}
}

// waits tells the states in which a service waits for its next client, with a
// sandbox or without.
func waits(s state) bool { return s == listening || s == warming || s == warm }

// act carries out an action. It returns the event that follows at once, if one
// does.
func (s *Service) act(a action) (next event, follows bool) {
	switch a {
	case doNothing:
	case doWatch:
		s.stop(&s.timer)
		s.queue()
	case doQueue:
		s.queue()
	case doPrepare:
		return s.prepare()
	case doKeep:
		return s.keep()
	case doDefer:
		s.postpone()
	case doDiscard:
		s.discard()
		s.queue()
	case doClaim:
		return s.claim()
	case doGo:
		return s.letGo()
	case doStart:
		return s.start()
	case doServe:
		return s.serve()
	case doLook:
		return s.lookForClients()
	case doAwait:
		s.limit(s.spec.StopTimeout)
		s.process.handover.Leave()
	case doStop:
		s.limit(s.spec.StopTimeout)
		s.process.stop(s.spec.StopSignal, s.log)
	case doKill:
		s.sayMissing()
		s.limit(s.spec.StopTimeout)
		s.process.kill(s.spec.StopSignal, s.log)
	case doRest:
		return s.rest()
	case doCount:
		s.look()
	case doRefuse:
		s.refuse()
	case doRelease:
		s.stop(&s.timer)
		s.stop(&s.hold)
		s.leaveQueue()
		s.starting.End()
	}
	return 0, false
}

// say writes the one line about a state.
func (s *Service) say(level slog.Level) {
	attrs := append([]any{"state", s.state.String()}, s.said...)
	s.said = s.said[:0]
	s.log.Log(context.Background(), level, "service "+s.state.String(), attrs...)
}

// limit lets the state last d at most; 0 is for ever.
func (s *Service) limit(d time.Duration) {
	s.stop(&s.timer)
	if d > 0 {
		s.timer, s.until = time.NewTimer(d), time.Now().Add(d)
	}
}

func (s *Service) stop(t **time.Timer) {
	if *t != nil {
		(*t).Stop()
		*t = nil
	}
}

// watch waits for a client on every socket, and reports whether it can: half a
// set is never served. Who was taken off a queue and is undelivered is there already.
func (s *Service) watch() bool {
	all := true
	for _, socket := range s.sockets {
		come := func() {
			select {
			case s.clients <- socket:
			default: // the service is awake already
			}
		}
		if err := s.around.Watcher.WaitReadable(socket, come); err != nil {
			s.log.Error("socket not watched", "socket", socket.String(), "err", err)
			all = false
		}
		if s.handover.ExpireUndelivered(socket); socket.Undelivered().Any() || socket.Pending().Any() {
			come()
		}
	}
	return all
}

func (s *Service) unwatch() {
	for _, socket := range s.sockets {
		s.around.Watcher.ForgetSocket(socket)
	}
}

// start makes a process for a client and leaves the rest of its birth to a
// goroutine.
func (s *Service) start() (event, bool) {
	_, _ = s.claim()
	return s.launchNow()
}

func (s *Service) launchNow() (event, bool) {
	if err := s.launch(process.ClientWaiting); err != nil {
		s.log.Error("service not started", "err", err)
		s.said = append(s.said, "err", err)
		return onStartFailed, true
	}
	return 0, false
}

// receive takes in what the process's goroutines report.
func (s *Service) receive(r report) {
	if r.of != s.process {
		return
	}
	switch {
	case r.prepared != nil:
		s.process.stage, s.process.child = stageStanding, r.prepared
		s.handle(onPrepared)
	case r.failed != nil:
		s.starting.End()
		switch {
		case waits(s.state):
			s.lost(r.failed)
		case s.state != ending:
			s.log.Error("service not started", "err", r.failed)
		}
		s.handle(onStartFailed)
	case r.exited != nil:
		s.process.failed = !clean(*r.exited) && !s.process.asked
		s.said = append(s.said, "pid", s.process.pid(), "exit", r.exited.String(), "ran", time.Since(s.process.started).Round(time.Microsecond))
		s.handle(onExited)
	case r.running:
		s.starting.End()
		s.process.stage = stageRunning
		if s.state == ending || s.state == aborting {
			s.handle(onUp) // it came too late, and goes at once
		}
	case r.told != nil:
		s.hear(*r.told)
	case r.serving:
		if s.state == starting && !s.spec.Notify {
			s.up()
		}
	}
}

func (s *Service) up() {
	s.process.stage = stageUp
	s.process.handover.Up()
	s.said = append(s.said, "pid", s.process.pid(), "after", time.Since(s.process.started).Round(time.Microsecond))
	s.handle(onUp)
}

// hear takes in what the program itself says, see sd_notify(3).
func (s *Service) hear(m notify.Message) {
	if m.HasStatus {
		s.log.Info("service status", "pid", s.process.pid(), "status", m.Status)
	}
	if m.MainPID > 0 {
		if err := s.process.child.SetMain(m.MainPID); err != nil {
			s.log.Warn("main process not followed", "pid", s.process.pid(), "err", err)
		}
	}
	if s.state != running && s.timer != nil && time.Until(s.until) < m.ExtendTimeout { // it never shortens
		s.limit(m.ExtendTimeout)
	}
	if m.Ready && s.state == starting {
		s.up()
	}
	if m.Stopping && s.state != stopping {
		s.handle(onLeaving)
	}
}

// rest ends a run: the sockets are made fit for the next one, the run is
// counted, and the clients who are still there are looked at.
func (s *Service) rest() (event, bool) {
	s.stop(&s.timer)
	s.starting.End()
	var ran time.Duration
	up, failed := false, true
	if p := s.process; p != nil {
		ran, up, failed = time.Since(p.started), p.stage == stageUp, p.failed
		s.process = nil
	}
	s.mend()
	if s.healPending {
		s.heal()
	}
	if up && ran >= s.spec.Hold {
		s.queues = newQueues(len(s.sockets)) // who waits now did not wait for a start
	}
	var delay time.Duration
	if failed || s.idle.stopped.IsZero() { // ended for idleness it has its own measure against loops
		s.history, delay = s.history.rest(s.spec.Timeouts, ran, failed, time.Now())
	}
	s.look()
	if delay == 0 {
		return onTimeout, true
	}
	s.said = append(s.said, "for", delay)
	s.timer = time.NewTimer(delay)
	s.watch() // a client who comes now is counted, and starts nothing
	return 0, false
}

// mend repairs what the last run did to the sockets.
func (s *Service) mend() {
	for _, socket := range s.sockets {
		what, err := socket.Mend()
		if err != nil {
			s.log.Error("socket not mended", "socket", socket.String(), "err", err)
		} else if what != "" {
			s.log.Warn("socket mended", "socket", socket.String(), "was", what)
		}
	}
}

// heal puts nodes back that were deleted or replaced, and reports whether a
// socket had to be bound anew for it. While a socket is being handed over it must
// not change, so the look is put off till then.
func (s *Service) heal() (anew bool) {
	s.healPending = s.state == starting || s.state == warming
	if s.healPending {
		return false
	}
	for _, socket := range s.sockets {
		before := socket.Generation()
		what, err := socket.MendNode()
		if err != nil {
			s.log.Error("node not healed", "socket", socket.String(), "err", err)
		} else if what != "" {
			s.log.Warn("node healed", "socket", socket.String(), "was", what)
		}
		anew = anew || socket.Generation() != before
	}
	if anew {
		s.watched = ended // another descriptor, and perhaps somebody who is undelivered
	}
	return anew
}

// sayMissing says why the program is not up, of one whose time is over.
func (s *Service) sayMissing() {
	if s.state != aborting {
		return
	}
	if missing := s.process.handover.DescribeMissing(); missing != "" {
		s.log.Error("service not started: "+missing, "pid", s.process.pid())
	}
}
