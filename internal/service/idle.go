package service

import (
	"errors"
	"slices"
	"time"

	"activator/internal/handover"
)

// A service without clients is stopped, and the next client starts it. Its clients are
// seen from outside, by looks that are far between: it was handed the sockets
// themselves, and does not tell of them.

// looks is how many looks there are in an idle_timeout.
const looks = 4

// mostPatience is how many idle_timeouts a run lasts at least when stopping the one
// before was not worth it, over and over.
const mostPatience = 16

// idleness is what is known of the clients that use the service.
type idleness struct {
	since time.Time // no client was seen from then on
	marks []uint64  // of the sockets, at the last look
	blind bool      // it has been said that clients cannot be seen

	least   time.Duration // that a run lasts; 0: no longer than idle_timeout
	ran     time.Duration // the run that was ended since no client was there
	stopped time.Time     // and when; zero: it ended otherwise
}

// leastRun is how long the next run has to last, when the last one of ran was ended
// for idleness and the next client came after away. A client that comes now and then, and is
// gone before a look sees it, would have the service stopped and started all the
// time: a stop that saved less than the run before it doubles the time.
func leastRun(least, idle, ran, away time.Duration) time.Duration {
	if away >= ran {
		return 0
	}
	return min(2*max(least, idle), mostPatience*idle)
}

// beginServing begins a run: the first look comes a quarter of idle_timeout later.
func (s *shared) beginServing() (event, bool) {
	s.limit(0)
	s.run.watchdog.hear(time.Now())
	s.expectAccept()
	if s.spec.IdleTimeout > 0 {
		i := &s.idle
		if !i.stopped.IsZero() {
			i.least = leastRun(i.least, s.spec.IdleTimeout, i.ran, s.run.started.Sub(i.stopped))
			i.stopped = time.Time{}
		}
		i.marks, i.since = make([]uint64, len(s.sockets)), time.Now()
		_, _ = s.isUsed() // from now on the kernel notes when datagrams come
		s.limit(s.spec.IdleTimeout / looks)
	}
	return onOutdated, s.healPending && s.healNodes()
}

// lookForClients looks whether a client uses the service.
func (s *shared) lookForClients() (event, bool) {
	used, err := s.isUsed()
	now := time.Now()
	if err != nil && !s.idle.blind {
		s.idle.blind = true
		s.log.Warn("service not stopped when idle", "err", err)
	}
	if used || err != nil {
		s.idle.since = now
	}
	idle := now.Sub(s.idle.since)
	if idle < s.spec.IdleTimeout || now.Sub(s.run.started) < s.idle.least || !s.stopUnused() {
		s.limit(s.spec.IdleTimeout / looks)
		return 0, false
	}
	s.idle.ran, s.idle.stopped = now.Sub(s.run.started), now
	s.said = append(s.said, "idle", idle.Round(time.Millisecond))
	return onIdle, true
}

// stopUnused asks the program to end, if no client uses it even now.
func (s *shared) stopUnused() bool {
	p, signal := s.run, s.spec.StopSignal
	stopping := p.handover.Retire(handover.Retirement{
		Stop: func() {
			killed, err := p.child.Stop(signal)
			s.noteSignal(p, killed, err)
		},
		StopIf: func() bool {
			stopped, killed, err := p.child.StopIf(signal, s.isUnused)
			s.noteSignal(p, killed, err)
			return stopped
		},
		Seen:  slices.Clone(s.idle.marks),
		Quiet: s.spec.IdleTimeout,
	})
	p.asked = p.asked || stopping
	return stopping
}

// isUnused looks once more, while the program stands still.
func (s *shared) isUnused() bool {
	used, err := s.isUsed()
	if used || err != nil {
		s.idle.since = time.Now()
		return false
	}
	return true
}

// isUsed reports whether anybody is connected to a socket, waits at it, or has sent
// something to it since the last look.
func (s *shared) isUsed() (used bool, err error) {
	for n := range s.sockets {
		a, failed := s.run.handover.Activity(n)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		used = used || a.Clients > 0 || a.Mark != s.idle.marks[n]
		s.idle.marks[n] = a.Mark
	}
	return used, err
}
