package service

import (
	"time"

	"activator/internal/listen"
	"activator/internal/spec"
)

// queues knows, for each socket, since when every waiting client has waited
// without anything moving. It is what `hold` is counted by: a client may wait
// for long in a queue that moves, and no client is turned away because another
// one came early.
type queues []map[listen.Client]time.Time

func newQueues(sockets int) queues { return make(queues, sockets) }

// noteWaiting takes in the clients that wait at socket i now. If one that was there is gone,
// it was served: the queue has moved, and the time of all the others starts anew.
func (q queues) noteWaiting(i int, waiting []listen.Client, now time.Time) (moved bool) {
	before := q[i]
	present := make(map[listen.Client]time.Time, len(waiting))
	for _, c := range waiting {
		present[c] = now
	}
	for c := range before {
		if _, still := present[c]; !still {
			q[i] = present
			return true
		}
	}
	for c, since := range before {
		present[c] = since
	}
	q[i] = present
	return false
}

// stands reports whether a client of socket i has waited since before a time.
func (q queues) stands(i int, before time.Time) bool {
	for _, since := range q[i] {
		if since.Before(before) {
			return true
		}
	}
	return false
}

// countExpired is how many clients of socket i have waited for hold.
func (q queues) countExpired(i int, hold time.Duration, now time.Time) int {
	n := 0
	for _, since := range q[i] {
		if !now.Before(since.Add(hold)) {
			n++
		}
	}
	return n
}

// findOldest is the earliest time since which a client waits, at any socket; zero: none does.
func (q queues) findOldest() (oldest time.Time) {
	for _, waiting := range q {
		for _, since := range waiting {
			oldest = firstOf(oldest, since)
		}
	}
	return oldest
}

// lookAtQueues reads which clients wait and sets the time at which the first of them will have
// waited for long enough. It reports whether a client that was there has been served since the last look.
func (s *Service) lookAtQueues() (moved bool) {
	now := time.Now()
	for i, socket := range s.sockets {
		waiting, err := socket.WaitingClients()
		if err != nil {
			s.log.Warn("queue not read", "socket", socket.String(), "err", err)
		}
		moved = s.queues.noteWaiting(i, waiting, now) || moved
	}
	s.hold = time.Time{}
	if oldest := s.queues.findOldest(); s.spec.Hold > 0 && !oldest.IsZero() {
		s.hold = oldest.Add(s.spec.Hold)
	}
	return moved
}

// onlyStand reports whether clients wait, and all of them behind one that has waited since before a time. Those of datagrams
// and FIFOs never do: two that are alike are one to [listen.Socket.WaitingClients].
func (s *Service) onlyStand(before time.Time) (all bool) {
	for i, waiting := range s.queues {
		if len(waiting) == 0 {
			continue
		}
		if a := s.sockets[i].Spec().Address; !a.IsStream() || a.Network == spec.VSock || !s.queues.stands(i, before) {
			return false
		}
		all = true
	}
	return all
}

// refuseClients turns away the clients that have waited for hold. No program takes from the
// sockets now: a sandbox that waits only has them.
func (s *Service) refuseClients() {
	s.lookAtQueues()
	now, hold := time.Now(), s.spec.Hold
	for i, socket := range s.sockets {
		n := s.queues.countExpired(i, hold, now)
		if n == 0 {
			continue
		}
		away, err := socket.RefuseClients(n)
		if err != nil {
			s.log.Error("clients not turned away", "socket", socket.String(), "err", err)
		}
		attrs := append([]any{"socket", socket.String(), "clients", away, "hold", hold}, s.lastEnd...)
		s.log.Warn("clients turned away: no run of the service has served anybody for as long as hold", attrs...)
	}
	s.lookAtQueues()
}
