package udprelay

import (
	"time"

	"golang.org/x/sys/unix"
)

// A unix client may be gone the moment it has asked, and a new name costs nothing. So
// where a relay has more flows than it may still have, it looks who is there.

const (
	sweepMost  = 256                    // flows at once: about a millisecond
	sweepFew   = 32                     // for a client that has found no room
	sweepEvery = 100 * time.Millisecond // while some are gone
	sweepRest  = 2 * time.Second        // after a round in which nobody was
)

// sweep is where the look at the flows of unix clients stands.
type sweep struct {
	next  time.Duration // before that nobody looks who has time
	full  time.Duration // nor before that who finds no room
	slot  int           // where it goes on
	found bool          // somebody was gone in this round
}

// crowded reports whether there are unix clients to be looked at: the relay has more
// flows than it may still have.
func (d *relay) crowded() bool {
	n := len(d.byClient)
	return d.family == unix.AF_UNIX && d.inStall.until == 0 && n > firstFlows &&
		(n > d.options.Flows/2 || d.share.Taken() > d.share.Room())
}

// sweepInTime looks at some, if it is time.
func (d *relay) sweepInTime() {
	if d.now < d.sweep.next || !d.crowded() {
		return
	}
	pause := sweepEvery
	if _, whole := d.sweepGone(sweepMost); whole {
		pause = sweepRest
	}
	d.sweep.next = d.now + pause
}

// sweepForRoom reports whether it has made room for a new client.
func (d *relay) sweepForRoom() (some bool) {
	if d.family != unix.AF_UNIX || d.now < d.sweep.full {
		return false
	}
	if some, _ = d.sweepGone(sweepFew); !some {
		d.sweep.full = d.now + sweepEvery
	}
	return some
}

// sweepGone looks at most flows and drops those whose client is gone: whether there were
// some, and whether nobody was in a whole round.
func (d *relay) sweepGone(most int) (some, whole bool) {
	s := &d.sweep
	for range min(most, len(d.slots)) {
		if s.slot >= len(d.slots) {
			whole, s.found, s.slot = !s.found, false, 0
		}
		f := d.slots[s.slot]
		s.slot++
		if f != nil && f != d.gram.to && clientGone(f) {
			d.drop(f)
			some, s.found = true, true
		}
	}
	return some, whole && !some
}

// clientGone reports whether nobody is bound any more to the name of a client that could be
// answered. The node, which we hold, is that of no other socket; connect(2) says nothing
// to who is bound there.
func clientGone(f *flow) bool {
	if !f.reached {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	to := f.answerTo()
	return connect(fd, &to) == unix.ECONNREFUSED
}
