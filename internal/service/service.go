package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"activator/internal/fdstore"
	"activator/internal/handover"
	"activator/internal/kernel/cgroup"
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
	Group  *cgroup.Group  // of this service alone, where its limits are kept; nil: none
	Trial  Trial          // nil: it is none
}

// Trial is told of a service that is run to find out what it lacks. Its methods are called by any goroutine.
type Trial interface {
	// Found says what the program lacks.
	Found(f spec.Finding)
	// Ended says that the program for all clients has ended, or could not be started.
	Ended(failed bool)
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
	over    chan struct{}       // closed when they are not received any more
	working sync.WaitGroup      // those goroutines

	life
	mode         mode
	watched      state // in which the sockets were asked last; ended: in none since the service has waited last
	history      history
	losses       history // of sandboxes that no client has had
	queues       queues
	store        *fdstore.Store
	hold         time.Time // of the client that has waited longest; zero: none waits
	slot         *Slot     // to build the next sandbox, and its place while it stands; nil: none
	ending       *Slot     // to tell a process to end; nil: nothing is to
	healPending  bool      // a node was touched while its socket was being handed over
	hinted       hints
	observe      bool  // what the next program is refused is told
	unobservable bool  // an observed start has failed
	said         []any // attributes for the next line about a state
	lastEnd      []any // attributes: how the last program of all clients has ended
}

// mode is how clients come to processes: all to one, or each to one of its own.
type mode interface {
	// attend is called whenever the service is about to wait for what happens next, until a
	// time at most (zero: it waits), and settle when something has.
	attend() (until time.Time)
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
	// endNext begins the end, in a slot that it takes, and reports whether it wants another one.
	endNext(slot *Slot) (more bool)

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
		clients: make(chan *listen.Socket, 2*len(sockets)), // and so none is dropped, see watchAll
		healing: make(chan struct{}, 1),
		woken:   make(chan struct{}, 1),
		reports: make(chan report),
		watched: ended,
		over:    make(chan struct{}),
		queues:  newQueues(len(sockets)),
	}
	s.store = fdstore.New(service.StoreMax, func(inode uint64) bool { return s.findClient(inode) != nil })
	s.handover = handover.Service{Spec: &s.spec, Sockets: sockets, Log: s.log, Tell: s.tell}
	if service.Accept {
		s.mode = newAccepting(s)
	} else {
		s.mode = &shared{Service: s}
	}
	return s
}

// NodeTouched tells the service that the node of one of its sockets may have
// been deleted or replaced. It never blocks; any goroutine may call it.
func (s *Service) NodeTouched() { wakeUp(s.healing) }

// wakeUp says on a channel of one element that there is something to look at.
func wakeUp(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the look is due already
	}
}

// Run serves until ctx is done and every program that runs has been stopped.
// Every process and goroutine it started is gone when it returns; the sockets
// stay as they are.
func (s *Service) Run(ctx context.Context) {
	defer s.closeStore()
	defer s.working.Wait()
	defer s.forgetSockets()
	defer close(s.over)
	defer func() {
		s.mode.close()
		s.slot.End()
		s.ending.End()
	}()
	s.handover.Disown()
	s.mode.act(doWatch)
	s.logState(slog.LevelInfo)
	alarm := time.NewTimer(0)
	defer alarm.Stop()
	for done := ctx.Done(); !s.mode.done(); {
		next := s.mode.attend()
		alarm.Stop()
		if at := firstOf(s.until, s.hold, next); !at.IsZero() {
			alarm.Reset(time.Until(at))
		}
		happened := s.awaitEvent(&done, alarm.C)
		s.mode.settle()
		happened()
	}
	s.logState(slog.LevelInfo)
}

// awaitEvent waits until something happens, and returns what is to be done about it.
func (s *Service) awaitEvent(done *<-chan struct{}, alarm <-chan time.Time) func() {
	select {
	case <-*done:
		*done = nil
		return func() { s.ending = s.around.Slots.QueueEnd() }
	case socket := <-s.clients:
		return func() { s.mode.called(socket) }
	case <-s.woken:
		return func() {}
	case <-s.slot.Given():
		return s.mode.given
	case <-s.ending.Given():
		return func() {
			if s.mode.endNext(s.ending) {
				s.ending = s.around.Slots.QueueEnd()
			}
		}
	case <-s.healing:
		return func() {
			if s.healNodes() {
				s.handle(onOutdated)
			}
		}
	case r := <-s.reports:
		return func() { s.mode.receive(r) }
	case <-alarm:
		return func() {
			now := time.Now()
			if isDue(&s.until, now) {
				s.handle(onTimeout)
			}
			if isDue(&s.hold, now) {
				s.handle(onHoldOver)
			}
		}
	}
}

// handle takes one step of the table, and the ones that follow at once.
func (s *Service) handle(e event) {
	level := slog.LevelInfo
	for follows := true; follows; {
		from := s.state
		e, follows = s.mode.act(s.takeStep(e))
		if isWaiting(from) && isWaiting(s.state) {
			level = slog.LevelDebug
		}
		if !follows && s.state == resting && from != resting {
			level = slog.LevelWarn // the program, or its start, has failed
		}
		if !follows && s.state != ended && (s.state != from || len(s.said) > 0) {
			s.logState(level)
		}
	}
}

// isWaiting tells the states in which a service waits for its next client, with a
// sandbox or without.
func isWaiting(s state) bool { return s == listening || s == warming || s == warm }

// logState writes the one line about a state.
func (s *Service) logState(level slog.Level) {
	attrs := append([]any{"state", s.state.String()}, s.said...)
	s.said = s.said[:0]
	s.log.Log(context.Background(), level, "service "+s.state.String(), attrs...)
}

// watchAll waits for a client on every socket, and reports whether it can. A client that is
// there, in the queue or taken off it and undelivered, is told anew: what has been told before is
// forgotten.
func (s *Service) watchAll() (all bool) {
	for len(s.clients) > 0 {
		<-s.clients
	}
	all = true
	for _, socket := range s.sockets {
		all = s.watchSocket(socket) == nil && all
		if s.handover.ExpireUndelivered(socket); socket.Undelivered().Any() || socket.Pending().Any() {
			s.noteClient(socket)
		}
	}
	s.noteStored()
	return all
}

// watchSocket waits for a client at a socket.
func (s *Service) watchSocket(socket *listen.Socket) error {
	err := s.around.Watcher.WaitReadable(socket, func() { s.noteClient(socket) })
	if err != nil {
		s.log.Error("socket not watched", "socket", socket.String(), "err", err)
	}
	return err
}

// noteClient says that there is a client at a socket.
func (s *Service) noteClient(socket *listen.Socket) {
	select {
	case s.clients <- socket:
	default: // the service is awake already
	}
}

func (s *Service) forgetSockets() {
	for _, socket := range s.sockets {
		s.around.Watcher.ForgetSocket(socket)
	}
}

// healNodes puts nodes back that were deleted or replaced, and reports whether a
// socket had to be bound anew for it. While a socket is being handed over it must
// not change, so the look is put off till then.
func (s *Service) healNodes() (anew bool) {
	s.healPending = s.state == starting || s.state == warming
	if s.healPending {
		return false
	}
	for _, socket := range s.sockets {
		before := socket.Generation()
		socket.MendNodeAndLog(s.log)
		anew = anew || socket.Generation() != before
	}
	if anew {
		s.watched = ended // another descriptor, and perhaps a client whose datagram is undelivered
	}
	return anew
}
