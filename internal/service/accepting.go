package service

import (
	"cmp"
	"slices"
	"time"

	"activator/internal/kernel/budget"
	"activator/internal/listen"
)

// accepting is a service with an instance of its program for each client: it accepts, and
// starts a sandbox of its own for every connection, as inetd and systemd's Accept=yes
// do. Its own life is that of the sockets, which never leave it; each instance has one
// beside it, by the same table.
//
// A client is accepted only when a sandbox stands ready for it and a place is
// free: until then it waits in the socket's queue.
type accepting struct {
	*Service
	callers  []bool    // by socket: clients wait, as far as we know; not watched then
	next     int       // the socket whose turn it is
	returned []*client // whose instance did not start; they are first
	sources  map[string]int
	turned   turnedAway // by max_connections_per_source
	share    budget.Share
	scarce   turnedAway // how often there was no room in share
	silent   turnedAway // by silent_connection_timeout
	look     time.Time  // the next one at silent connections

	instances map[*run]*instance
	counts    [ended + 1]int // of them, by state
	warm      []*instance    // those in that state, the one that has stood longest first
	pool      pool
	learned   int       // instances that have had another one observed
	kept      bool      // the slot is ours: one stands while no client comes
	calm      time.Time // when the pool may be made smaller; zero: it need not
	quiet     time.Time // when the next sandbox may be made; zero: now
	soonest   time.Time // when the time of an instance is over, or was to be; zero: never
}

// client is a connection on its way to an instance.
type client struct {
	*listen.Connection
	socket *listen.Socket
	came   time.Time
	tries  int // sandboxes that died before they knew of it
}

func newAccepting(s *Service) *accepting {
	return &accepting{
		Service:   s,
		callers:   make([]bool, len(s.sockets)),
		sources:   make(map[string]int),
		instances: make(map[*run]*instance),
	}
}

// maxConnections is how many instances there are at a time, where nothing is said.
const maxConnections = 64

// attend watches the sockets, from the beginning of each state on, and brings clients and
// sandboxes together.
func (s *accepting) attend() (until time.Time) {
	s.passTime(time.Now())
	for asked := false; !asked; asked = s.watched == s.state || s.state == ended {
		if s.watched != s.state && s.state != ended {
			s.watched = s.state
			clear(s.callers)
			_ = s.watchAll()
		}
		s.bringTogether()
	}
	return firstOf(s.makeRoom(time.Now()), s.calm, s.quiet, s.soonest)
}

// bringTogether does so for as long as there are both, a place is free, and nothing rests.
func (s *accepting) bringTogether() {
	if s.state != listening {
		return
	}
	for s.hasClients() && s.countClients() < s.countAllowed() && s.hasRoom() && s.hasSandbox() {
		c := s.takeClient()
		if c == nil {
			break
		}
		s.warm[0].takeClient(c)
	}
	s.fillPool()
	if s.kept && s.counts[warming] == 0 {
		s.slot.Stand() // or could not be built now: no service has to wait for that
	}
}

func (s *accepting) settle() {}

// countAllowed is how many instances there may be with a client.
func (s *accepting) countAllowed() int { return cmp.Or(s.spec.MaxConns, maxConnections) }

// countClients is how many there are.
func (s *accepting) countClients() int {
	return s.counts[starting] + s.counts[running] + s.counts[stopping] + s.counts[aborting]
}

func (s *accepting) act(a action) (next event, follows bool) {
	switch a {
	case doWatch:
		s.limit(0)
	case doRest:
		var delay time.Duration
		s.history, delay = s.history.rest(s.spec.Timeouts, 0, true, time.Now())
		s.said = append(s.said, "for", delay)
		s.limit(delay)
		s.setHold()
	case doCount:
		s.setHold()
	case doRefuse:
		s.turnAway()
	case doRelease:
		s.endAccepting()
	}
	return 0, false
}

// called takes in that a client came: while nothing starts, how long clients wait is
// counted from now.
func (s *accepting) called(socket *listen.Socket) {
	s.callers[slices.Index(s.sockets, socket)] = true
	s.pool.refused = false
	if s.state == resting {
		s.handle(onClient)
	}
}

func (s *accepting) given() { s.kept = true }

// setHold sets the time at which the first client will have waited for hold.
func (s *accepting) setHold() {
	s.lookAtQueues()
	for _, c := range s.returned {
		if s.spec.Hold > 0 {
			s.hold = firstOf(s.hold, c.came.Add(s.spec.Hold))
		}
	}
}

// turnAway turns away the clients that have waited for hold while nothing started.
func (s *accepting) turnAway() {
	s.returned = slices.DeleteFunc(s.returned, func(c *client) bool {
		over := time.Since(c.came) >= s.spec.Hold
		if over {
			s.dropClient(c)
			s.log.Warn("client turned away: no instance has started for as long as hold", "socket", c.socket.String(), "remote", c.Peer.Addr, "hold", s.spec.Hold)
		}
		return over
	})
	s.refuseClients()
	s.setHold()
}

// endAccepting is the end of what accepts. The instances are told one after the other, by
// endNext.
func (s *accepting) endAccepting() {
	s.until, s.hold, s.calm, s.quiet = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	s.forgetSockets()
	for _, c := range s.returned {
		s.dropClient(c)
	}
	s.returned = nil
	if n := s.countClients(); n > 0 {
		s.log.Info("service ending", "state", "ending", "instances", n)
	}
}

// endNext tells the next instance to end.
func (s *accepting) endNext(slot *Slot) (more bool) {
	if s.state != ended {
		s.handle(onEnd)
	}
	for _, i := range s.instances {
		if i.end == nil {
			i.end = slot
			i.handle(onEnd)
			return true
		}
	}
	slot.End()
	return false
}

// passTime handles the times that are over.
func (s *accepting) passTime(now time.Time) {
	_ = isDue(&s.quiet, now)
	if isDue(&s.calm, now) {
		s.shrinkPool()
	}
	if s.counts[warm]+s.counts[running] == len(s.instances) {
		s.soonest = time.Time{} // these may last: nothing wakes up for them
	}
	if isDue(&s.soonest, now) {
		for _, i := range s.instances {
			if isDue(&i.until, now) {
				i.handle(onTimeout)
			}
			s.soonest = firstOf(s.soonest, i.until)
		}
	}
}

func (s *accepting) done() bool { return s.state == ended && len(s.instances) == 0 }

func (s *accepting) close() { s.share.Close() }

// hasClients reports whether there are clients, as far as we know.
func (s *accepting) hasClients() bool {
	return len(s.returned) > 0 || slices.Contains(s.callers, true)
}
