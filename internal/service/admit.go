package service

import (
	"time"

	"activator/internal/kernel/budget"
	"activator/internal/listen"
)

// takeClient returns the next client: one whose sandbox failed, or one of a queue, the
// sockets in turn. nil: no client waits, and all sockets are watched again.
func (s *accepting) takeClient() *client {
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
			if err != nil { // it is ours, and may pass: no descriptors, no memory
				s.log.Error("client not accepted", "socket", s.sockets[i].String(), "err", err)
				s.handle(onStartFailed)
				return nil
			}
			if connection == nil {
				s.callers[i] = false
				_ = s.watchSocket(s.sockets[i])
				break
			}
			if s.admitClient(connection, s.sockets[i]) {
				return &client{Connection: connection, socket: s.sockets[i], came: time.Now()}
			}
		}
	}
	return nil
}

// admitClient counts a client, or turns away one too many of its source.
func (s *accepting) admitClient(c *listen.Connection, socket *listen.Socket) bool {
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

// giveBack gives the place of a client back.
func (s *accepting) giveBack(c *client) {
	s.share.Give(perClient)
	source := c.Peer.Source
	if s.sources[source]--; s.sources[source] == 0 {
		delete(s.sources, source)
	}
}

// dropClient closes the connection of a client without an instance.
func (s *accepting) dropClient(c *client) {
	_ = c.File.Close()
	s.giveBack(c)
}

// perClient is how many descriptors a client and its instance cost: the connection, then
// the process and what it says, and what its start needs.
const perClient = 8

// hasRoom reports whether there are descriptors for the next client; if not, the service
// goes on once there are.
func (s *accepting) hasRoom() bool {
	if len(s.returned) > 0 || s.share.Room() >= perClient {
		return true
	}
	s.share.Await(perClient, func() { wakeUp(s.woken) })
	if _, due := s.scarce.count(time.Now()); due {
		s.log.Warn("nobody is accepted for now", "instances", s.countClients(), "err", budget.ErrNone)
	}
	return false
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
