package udprelay

import (
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// A unix client may be gone the moment it has asked, and a new name costs nothing. So
// where a relay has more flows than it may still have, it looks which clients are there.

const (
	sweepMost  = 256                    // flows at once: about a millisecond
	sweepFew   = 32                     // for a client that has found no room
	sweepEvery = 100 * time.Millisecond // while some are gone
	sweepRest  = 2 * time.Second        // after a round in which none was
)

// sweep is where the look at the flows of unix clients stands.
type sweep struct {
	next  time.Duration // before that there is no look in time
	full  time.Duration // nor before that one for a client that finds no room
	slot  int           // where it goes on
	found bool          // a client was gone in this round
}

// isCrowded reports whether there are clients to be looked at: the relay has more
// flows than it may still have.
func (u *unixRelay) isCrowded() bool {
	n := len(u.flows.byClient)
	return u.inStall.until == 0 && n > firstFlows && (n > u.flows.most/2 || u.flows.share.Taken() > u.flows.share.Room())
}

// sweepInTime looks at some, if it is time.
func (u *unixRelay) sweepInTime() {
	if u.now < u.sweep.next || !u.isCrowded() {
		return
	}
	rest := sweepEvery
	if _, whole := u.sweepGone(sweepMost); whole {
		rest = sweepRest
	}
	u.sweep.next = u.now + rest
}

// sweepForRoom looks for room for a new client.
func (u *unixRelay) sweepForRoom() {
	if u.now < u.sweep.full {
		return
	}
	if some, _ := u.sweepGone(sweepFew); !some {
		u.sweep.full = u.now + sweepEvery
	}
}

// sweepGone looks at most flows and drops those whose client is gone: whether there were
// some, and whether there were none in a whole round.
func (u *unixRelay) sweepGone(most int) (some, whole bool) {
	s := &u.sweep
	for range min(most, len(u.flows.slots)) {
		if s.slot >= len(u.flows.slots) {
			whole, s.found, s.slot = !s.found, false, 0
		}
		f := u.flows.slots[s.slot]
		s.slot++
		if f != nil && f != u.to && f.isClientGone() {
			u.dropFlow(f)
			some, s.found = true, true
		}
	}
	return some, whole && !some
}

// isClientGone reports whether no socket is bound any more to the name of a client that could be
// answered. The node, which we hold, is that of no other socket; connect(2) says nothing
// to the socket that is bound there.
func (f *flow) isClientGone() bool {
	if !f.reached {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	to := f.answerTo()
	return sockaddr.Connect(fd, &to) == unix.ECONNREFUSED
}
