package service

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"activator/internal/listen"
)

// With an instance for each client, clients that say nothing could keep all others out for good. No client is
// ended for that as long as there is a place. Only where all are taken and somebody waits do those give way on
// which nothing has moved for longest, of the source that has most of them.
//
// How long that is the kernel knows, of TCP, and it is asked only then. (To keep a descriptor of each connection and ask
// TCP_INFO of it was the other way: the connection would then stay open when the program has closed it.) Of unix sockets it
// notes no times.

// soonestLook is how far apart looks at the connections are, at least: each walks the kernel's table.
const soonestLook = time.Second

// mostEnded is how many are ended by one look.
const mostEnded = 64

// silence is a client that is served, on whose connection nothing moves.
type silence struct {
	of     *instance
	long   time.Duration
	source string
}

// makeRoom ends silent connections where others wait, and returns when to look again.
func (s *accepting) makeRoom(now time.Time) (until time.Time) {
	limit := s.spec.SilentTimeout
	full := s.countClients() >= s.countAllowed() || s.share.Room() < perClient
	if limit == 0 || s.state != listening || !full || !s.hasClients() {
		return time.Time{}
	}
	if now.Before(s.look) {
		return s.look
	}
	// Those that have been told to end already make room too.
	wanted := min(s.countWaiting()-s.counts[stopping], mostEnded)
	chosen, next := chooseSilent(s.listSilent(), s.sources, limit, max(wanted, 0))
	s.look = now.Add(max(next, soonestLook))
	for _, one := range chosen {
		s.endSilent(one, now)
	}
	return s.look
}

// listSilent lists the clients that are served, where the kernel tells for how long nothing has moved.
func (s *accepting) listSilent() (all []silence) {
	known := make(map[*listen.Socket]map[string]time.Duration, len(s.sockets))
	for _, socket := range s.sockets {
		silent, err := socket.Silences()
		if err != nil {
			s.log.Warn("silent connections not seen", "socket", socket.String(), "err", err)
		}
		known[socket] = silent
	}
	for _, i := range s.instances {
		if i.state != running {
			continue
		}
		if long, seen := known[i.client.socket][i.client.Peer.Key()]; seen {
			all = append(all, silence{i, long, i.client.Peer.Source})
		}
	}
	return all
}

// chooseSilent chooses n of those that have been silent for limit: each of the source that has most connections by then,
// and of its the one that has been silent for longest. It says for how long to wait until there is another one.
func chooseSilent(all []silence, sources map[string]int, limit time.Duration, n int) (chosen []silence, next time.Duration) {
	left, next := maps.Clone(sources), limit
	var ready []silence
	for _, one := range all {
		if one.long >= limit {
			ready = append(ready, one)
		} else {
			next = min(next, limit-one.long)
		}
	}
	for range min(n, len(ready)) {
		first := slices.MinFunc(ready, func(a, b silence) int {
			return cmp.Or(cmp.Compare(left[b.source], left[a.source]), cmp.Compare(b.long, a.long))
		})
		left[first.source]--
		chosen, ready = append(chosen, first), slices.DeleteFunc(ready, func(one silence) bool { return one == first })
	}
	if len(ready) > 0 {
		next = 0
	}
	return chosen, next
}

// countWaiting is how many clients wait. A socket at which none does any more is watched again.
func (s *accepting) countWaiting() int {
	n := len(s.returned)
	for i, socket := range s.sockets {
		if !s.callers[i] {
			continue
		}
		waiting, err := socket.WaitingClients()
		if err != nil {
			s.log.Warn("queue not read", "socket", socket.String(), "err", err)
		}
		if len(waiting) == 0 {
			s.callers[i] = false
			_ = s.watchSocket(socket)
		}
		n += len(waiting)
	}
	return n
}

// endSilent tells an instance to end.
func (s *accepting) endSilent(one silence, now time.Time) {
	i, peer := one.of, one.of.client.Peer
	if n, due := s.silent.count(now); due {
		s.log.Warn("connections ended: all instances are taken, and nothing moves on these", "socket", i.client.socket.String(), "pid", i.child.Pid(), "remote", peer.Addr,
			"source", peer.Source, "connections", s.sources[peer.Source], "silent", one.long.Round(time.Second), "clients", n)
	}
	if _, err := i.stop(s.spec.StopSignal); err != nil {
		s.log.Error("instance not signalled", "pid", i.child.Pid(), "err", err)
	}
	i.handle(onIdle)
}
