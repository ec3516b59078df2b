package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"activator/internal/handover"
	"activator/internal/listen"
	"activator/internal/output"
	"activator/internal/process"
	"activator/internal/spec"
)

// Surroundings are what all services of an activator share. They are lent.
type Surroundings struct {
	Starter *process.Starter
	Watcher *listen.Watcher
	Sink    *output.Sink
	Slots   *Slots

	Engine process.Engine // of this service alone, in place of its program; nil: none
}

// Service is one service at work. Its fields belong to the goroutine in [Run].
type Service struct {
	spec     spec.Service
	around   Surroundings
	sockets  []*listen.Socket
	handover handover.Service // of them
	log      *slog.Logger

	clients chan *listen.Socket // from the watcher: it became readable
	healing chan struct{}       // from the watcher: a node was touched
	woken   chan struct{}       // from others: what attend and settle look at has changed
	reports chan report         // from the goroutines of processes
	over    chan struct{}       // closed when nobody receives them any more
	working sync.WaitGroup      // those goroutines

	life
	work        work
	watched     state // in which the sockets were asked last; ended: in none since the service has waited last
	history     history
	losses      history // of sandboxes that stood for nobody
	queues      queues
	hold        time.Time // of the client that has waited longest; zero: nobody waits
	slot        *Slot     // to build the next sandbox, and its place while it stands; nil: none
	ending      *Slot     // to tell a process to end; nil: nothing is to
	healPending bool      // a node was touched while its socket was being handed over
	said        []any     // attributes for the next line about a state
}

// work is how clients come to processes: all to one, or each to one of its own.
type work interface {
	// attend is called whenever the service is about to wait for what happens next, and
	// settle when something has.
	attend()
	settle()
	// act carries out an action of the service. It returns the event that follows at
	// once, if one does.
	act(a action) (next event, follows bool)

	// called says that a client is at a socket.
	called(socket *listen.Socket)
	// receive takes in what is said of a process.
	receive(r report)
	// given says that the next sandbox may be built.
	given()
	// leave begins the end, in a slot that it takes, and reports whether it wants another one.
	leave(slot *Slot) (more bool)

	// nextTime is when pass is to be called; zero: not at all.
	nextTime() time.Time
	pass(now time.Time)

	// done reports whether nothing is left of it, after the end.
	done() bool
	close()
}

// New makes a service of sockets, which are lent until Run has returned.
func New(service spec.Service, around Surroundings, sockets []*listen.Socket) *Service {
	s := &Service{
		spec:    service,
		around:  around,
		sockets: sockets,
		log:     around.Sink.Logger().With("service", service.Name),
		clients: make(chan *listen.Socket, 2*len(sockets)), // and so nobody is dropped, see watchAll
		healing: make(chan struct{}, 1),
		woken:   make(chan struct{}, 1),
		reports: make(chan report),
		watched: ended,
		over:    make(chan struct{}),
		queues:  newQueues(len(sockets)),
	}
	s.handover = handover.Service{Spec: &s.spec, Sockets: sockets, Log: s.log}
	if service.Accept {
		s.work = newAccepting(s)
	} else {
		s.work = &shared{Service: s}
	}
	return s
}

// NodeTouched tells the service that the node of one of its sockets may have
// been deleted or replaced. It never blocks; any goroutine may call it.
func (s *Service) NodeTouched() { signal(s.healing) }

// signal says on a channel of one element that there is something to look at.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the look is due already
	}
}

// Run serves until ctx is done and every program that runs has been stopped.
// Every process and goroutine it started is gone when it returns; the sockets
// stay as they are.
func (s *Service) Run(ctx context.Context) {
	defer s.working.Wait()
	defer s.unwatch()
	defer close(s.over)
	defer func() {
		s.work.close()
		s.slot.End()
		s.ending.End()
	}()
	s.handover.Disown()
	s.work.act(doWatch)
	s.say(slog.LevelInfo)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for done := ctx.Done(); !s.work.done(); {
		s.work.attend()
		alarm.Stop()
		if at := earliest(s.until, s.hold, s.work.nextTime()); !at.IsZero() {
			alarm.Reset(time.Until(at))
		}
		happened := s.await(&done, alarm.C)
		s.work.settle()
		happened()
	}
	s.say(slog.LevelInfo)
}

// await waits until something happens, and returns what is to be done about it.
func (s *Service) await(done *<-chan struct{}, alarm <-chan time.Time) func() {
	select {
	case <-*done:
		*done = nil
		return func() { s.ending = s.around.Slots.QueueEnd() }
	case socket := <-s.clients:
		return func() { s.work.called(socket) }
	case <-s.woken:
		return func() {}
	case <-s.slot.Given():
		return s.work.given
	case <-s.ending.Given():
		return func() {
			if s.work.leave(s.ending) {
				s.ending = s.around.Slots.QueueEnd()
			}
		}
	case <-s.healing:
		return func() {
			if s.heal() {
				s.handle(onOutdated)
			}
		}
	case r := <-s.reports:
		return func() { s.work.receive(r) }
	case <-alarm:
		return func() { s.pass(time.Now()) }
	}
}

// pass handles the times that are over.
func (s *Service) pass(now time.Time) {
	if isDue(&s.until, now) {
		s.handle(onTimeout)
	}
	if isDue(&s.hold, now) {
		s.handle(onHoldOver)
	}
	s.work.pass(now)
}

// handle takes one step of the table, and the ones that follow at once.
func (s *Service) handle(e event) {
	level := slog.LevelInfo
	for follows := true; follows; {
		from := s.state
		e, follows = s.work.act(s.step(e))
		if waits(from) && waits(s.state) {
			level = slog.LevelDebug
		}
		if !follows && s.state != ended && (s.state != from || len(s.said) > 0) {
			s.say(level)
		}
	}
}

// waits tells the states in which a service waits for its next client, with a
// sandbox or without.
func waits(s state) bool { return s == listening || s == warming || s == warm }

// say writes the one line about a state.
func (s *Service) say(level slog.Level) {
	attrs := append([]any{"state", s.state.String()}, s.said...)
	s.said = s.said[:0]
	s.log.Log(context.Background(), level, "service "+s.state.String(), attrs...)
}

// watchAll waits for a client on every socket, and reports whether it can. Who is there, in the
// queue or taken off it and undelivered, is told anew: what has been told before is forgotten.
func (s *Service) watchAll() (all bool) {
	for len(s.clients) > 0 {
		<-s.clients
	}
	all = true
	for _, socket := range s.sockets {
		all = s.watch(socket) == nil && all
		if s.handover.ExpireUndelivered(socket); socket.Undelivered().Any() || socket.Pending().Any() {
			s.come(socket)
		}
	}
	return all
}

// watch waits for a client at a socket.
func (s *Service) watch(socket *listen.Socket) error {
	err := s.around.Watcher.WaitReadable(socket, func() { s.come(socket) })
	if err != nil {
		s.log.Error("socket not watched", "socket", socket.String(), "err", err)
	}
	return err
}

// come says that there is a client at a socket.
func (s *Service) come(socket *listen.Socket) {
	select {
	case s.clients <- socket:
	default: // the service is awake already
	}
}

func (s *Service) unwatch() {
	for _, socket := range s.sockets {
		s.around.Watcher.ForgetSocket(socket)
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
		s.watched = ended // another descriptor, and perhaps a client whose datagram is undelivered
	}
	return anew
}
