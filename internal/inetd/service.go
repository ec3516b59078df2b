package inetd

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"activator/internal/handover"
	"activator/internal/kernel/budget"
	"activator/internal/listen"
	"activator/internal/service"
	"activator/internal/spec"
)

// maxConnections is how many instances there are at a time, where nothing is said.
const maxConnections = 64

// Service is one service at work. Its fields belong to the goroutine in [Run].
type Service struct {
	spec    spec.Service
	around  service.Surroundings
	sockets []*listen.Socket
	log     *slog.Logger

	handover handover.Service
	readable chan int      // from the watcher: which socket has clients
	healing  chan struct{} // from the watcher: a node was touched
	reports  chan report   // from the goroutines
	working  sync.WaitGroup

	callers   []bool             // by socket: clients wait, as far as we know; not watched then
	next      int                // the socket whose turn it is
	pool      pool               // sandboxes
	slot      *service.StartSlot // for the sandbox that stands while nobody comes, kept once it is ours; nil: not asked for
	placed    bool               // it is ours
	instances map[*instance]bool // that have a client
	starting  int                // those on their way to exec
	sources   map[string]int     // how many of them, by source
	returned  []*client          // whose instance did not start; they are first
	history   service.History    // of starts
	queues    service.Queues     // of who waits while nothing starts
	resting   *time.Timer        // after a start that failed; nil: none runs
	hold      *time.Timer        // of who waits while nothing starts; nil: none runs
	calm      *time.Timer        // till the pool may be made smaller; nil: none runs
	quiet     *time.Timer        // till the next sandbox may be made; nil: none runs
	ending    *time.Timer        // stop_timeout; nil: none runs
	due       []*instance        // to be ended in their turn
	do        func(*instance)    // how
	turn      *time.Timer        // of the next of them; nil: none runs
	leaving   bool               // to be gone
	turned    turnedAway         // by max_connections_per_source
	share     budget.Share       // of who is taken off a queue
	room      chan struct{}      // there is room in share again
	scarce    turnedAway         // how often there was none
}

// client is a connection on its way to an instance.
type client struct {
	*listen.Connection
	socket *listen.Socket
	came   time.Time
	tries  int // sandboxes that died before they knew of it
}

// New makes a service of sockets, which are lent until Run has returned.
func New(spec spec.Service, around service.Surroundings, sockets []*listen.Socket) *Service {
	s := &Service{
		spec:      spec,
		around:    around,
		sockets:   sockets,
		log:       around.Sink.Logger().With("service", spec.Process.Name),
		readable:  make(chan int, len(sockets)),
		healing:   make(chan struct{}, 1),
		room:      make(chan struct{}, 1),
		reports:   make(chan report),
		callers:   make([]bool, len(sockets)),
		instances: make(map[*instance]bool),
		sources:   make(map[string]int),
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

// Run serves until ctx is done and every instance has been stopped. Every process
// and goroutine it started is gone when it returns; the sockets stay as they are.
func (s *Service) Run(ctx context.Context) {
	defer s.working.Wait()
	defer s.unwatch()
	defer s.share.Close()
	for i := range s.sockets {
		s.watch(i)
	}
	s.log.Info("service listening", "state", "listening")
	s.serve()
	done := ctx.Done()
	for !s.gone() {
		select {
		case <-done:
			done = nil
			s.end()
		case i := <-s.readable:
			s.callers[i] = true
			s.called()
		case <-s.slot.Given():
			s.placed = true
		case <-s.healing:
			s.heal()
		case <-s.room:
		case r := <-s.reports:
			r.to(s)
		case <-fired(s.resting):
			s.resting = nil
			s.log.Info("service listening", "state", "listening")
		case <-fired(s.hold):
			s.hold = nil
			s.refuse()
		case <-fired(s.calm):
			s.calm = nil
			s.shrink()
		case <-fired(s.quiet):
			s.quiet = nil
		case <-fired(s.turn):
			s.turn = nil
			s.advance()
		case <-fired(s.ending):
			s.ending = nil
			s.kill()
		}
		s.serve()
		if s.placed && len(s.pool.making) == 0 {
			s.slot.Stand() // or could not be built now: nobody has to wait for that
		}
	}
	s.stopTimers()
	s.slot.End()
	s.log.Info("service ended", "state", "ended")
}

// fired is the channel of a timer that may not run.
func fired(t *time.Timer) <-chan time.Time {
	if t == nil {
		return nil
	}
	return t.C
}

func (s *Service) stopTimers() {
	for _, t := range []*time.Timer{s.resting, s.hold, s.calm, s.quiet, s.ending, s.turn} {
		if t != nil {
			t.Stop()
		}
	}
}

// watch waits for clients at socket i.
func (s *Service) watch(i int) {
	s.callers[i] = false
	err := s.around.Watcher.WaitReadable(s.sockets[i], func() { s.readable <- i }) // armed once, so there is room
	if err != nil {
		s.log.Error("socket not watched", "socket", s.sockets[i].String(), "err", err)
	}
}

func (s *Service) unwatch() {
	for _, socket := range s.sockets {
		s.around.Watcher.ForgetSocket(socket)
	}
}

// called takes in that somebody came: while nothing starts, how long they wait is
// counted from now.
func (s *Service) called() {
	s.pool.failed = false
	if s.resting != nil {
		s.look()
	}
}

// serve brings clients and sandboxes together for as long as there are both, a
// place is free, and nothing rests. It is called after every event.
func (s *Service) serve() {
	if s.leaving || s.resting != nil {
		return
	}
	for s.waiting() && len(s.instances) < cmp.Or(s.spec.MaxConns, maxConnections) && s.hasRoom() && s.standing() {
		c := s.take()
		if c == nil {
			break
		}
		s.start(c)
	}
	s.fill()
}

// perClient is how many descriptors a client and its instance cost: the connection, then
// the process and what it says, and what its start needs.
const perClient = 8

// hasRoom reports whether there are descriptors for the next client; if not, the service
// goes on once there are.
func (s *Service) hasRoom() bool {
	if len(s.returned) > 0 || s.share.Room() >= perClient {
		return true
	}
	s.share.Await(perClient, func() {
		select {
		case s.room <- struct{}{}:
		default: // it is due already
		}
	})
	if _, due := s.scarce.count(time.Now()); due {
		s.log.Warn("nobody is accepted for now", "instances", len(s.instances), "err", budget.ErrNone)
	}
	return false
}

// waiting reports whether there are clients, as far as we know.
func (s *Service) waiting() bool {
	if len(s.returned) > 0 {
		return true
	}
	for _, calls := range s.callers {
		if calls {
			return true
		}
	}
	return false
}

// take returns the next client: one whose sandbox failed, or one of a queue, the
// sockets in turn. nil: nobody waits, and all sockets are watched again.
func (s *Service) take() *client {
	if len(s.returned) > 0 {
		c := s.returned[0]
		s.returned = s.returned[1:]
		return c
	}
	for range s.sockets {
		i := s.next
		s.next = (i + 1) % len(s.sockets)
		if !s.callers[i] {
			continue
		}
		for {
			connection, err := s.sockets[i].Accept()
			if err != nil {
				s.troubled(i, err)
				return nil
			}
			if connection == nil {
				s.watch(i)
				break
			}
			if s.admit(connection, s.sockets[i]) {
				return &client{Connection: connection, socket: s.sockets[i], came: time.Now()}
			}
		}
	}
	return nil
}

// troubled rests after an error of accept(2) that is ours and may pass: no
// descriptors, no memory. Clients wait in the queue.
func (s *Service) troubled(i int, err error) {
	s.log.Error("client not accepted", "socket", s.sockets[i].String(), "err", err)
	s.rest()
}

// admit counts a client, or turns away one too many of its source.
func (s *Service) admit(c *listen.Connection, socket *listen.Socket) bool {
	source := c.Peer.Source
	if source == "" || s.spec.MaxSource == 0 || s.sources[source] < s.spec.MaxSource {
		s.sources[source]++
		s.share.Take(perClient)
		return true
	}
	_ = c.File.Close()
	if n, due := s.turned.count(time.Now()); due {
		s.log.Warn("clients turned away: max_connections_per_source", "socket", socket.String(), "source", source, "limit", s.spec.MaxSource, "clients", n)
	}
	return false
}

// release gives the place of a client back.
func (s *Service) release(c *client) {
	s.share.Give(perClient)
	source := c.Peer.Source
	if s.sources[source]--; s.sources[source] == 0 {
		delete(s.sources, source)
	}
}

// turnedAway counts, so that a flood of clients is not one of lines in the log.
type turnedAway struct {
	clients int
	said    time.Time
}

const turnedPause = time.Second

func (t *turnedAway) count(now time.Time) (clients int, due bool) {
	t.clients++
	if now.Sub(t.said) < turnedPause {
		return 0, false
	}
	clients, t.clients, t.said = t.clients, 0, now
	return clients, true
}

// rest lets nothing start for a while: longer with each start that fails in a row.
func (s *Service) rest() {
	if s.leaving || s.resting != nil {
		return // it was under way at the same time as another one
	}
	delay := s.history.Rest(s.spec.Timeouts, 0, true)
	s.log.Info("service resting", "state", "resting", "for", delay)
	s.resting = time.NewTimer(delay)
	for i, calls := range s.callers {
		if calls {
			s.watch(i) // a client who comes now is counted, and starts nothing
		}
	}
	s.look()
}

// look sets the time at which the first client will have waited for hold.
func (s *Service) look() {
	if s.spec.Hold == 0 {
		return
	}
	if s.hold != nil {
		s.hold.Stop()
		s.hold = nil
	}
	oldest, any := s.queues.Look(s.sockets, s.log)
	for _, c := range s.returned {
		if !any || c.came.Before(oldest) {
			oldest, any = c.came, true
		}
	}
	if any {
		s.hold = time.NewTimer(time.Until(oldest.Add(s.spec.Hold)))
	}
}

// refuse turns away who has waited for hold while nothing started.
func (s *Service) refuse() {
	kept := s.returned[:0]
	for _, c := range s.returned {
		if time.Since(c.came) < s.spec.Hold {
			kept = append(kept, c)
			continue
		}
		s.drop(c)
		s.log.Warn("client turned away: no instance has started for as long as hold", "socket", c.socket.String(), "remote", c.Peer.Addr, "hold", s.spec.Hold)
	}
	s.returned = kept
	s.look()
	s.queues.Refuse(s.sockets, s.spec.Hold, s.log)
	s.look()
}

// drop closes the connection of a client without an instance.
func (s *Service) drop(c *client) {
	_ = c.File.Close()
	s.release(c)
}

// heal puts nodes back that were deleted or replaced.
func (s *Service) heal() {
	for _, socket := range s.sockets {
		what, err := socket.MendNode()
		if err != nil {
			s.log.Error("node not healed", "socket", socket.String(), "err", err)
		} else if what != "" {
			s.log.Warn("node healed", "socket", socket.String(), "was", what)
		}
	}
}
