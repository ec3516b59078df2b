package service

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"activator/internal/listen"
	"activator/internal/spec"
)

// deafness is what is known of a program that may not use the sockets it was given: the clients that wait at the
// socket it was started for.
type deafness struct {
	socket  *listen.Socket
	waiting []listen.Client // at the first look; nil: there was none
	due     time.Time       // the next look; zero: none
}

// expectAccept has looks come after hold, and again after hold. A program that accepts costs one, at which nobody waits.
func (s *shared) expectAccept() {
	if s.spec.Hold > 0 && s.caller != nil && s.spec.Handover != spec.Proxy {
		s.run.deaf = deafness{socket: s.caller, due: time.Now().Add(s.spec.Hold)}
	}
}

// lookAtDeaf says so, once, when a client has waited for hold at a program that runs, and returns when to look
// next.
func (s *shared) lookAtDeaf() time.Time {
	d := &s.run.deaf
	if now := time.Now(); d.due.IsZero() || now.Before(d.due) {
		return d.due
	}
	before := d.waiting
	d.due = time.Time{}
	d.waiting, _ = d.socket.WaitingClients()
	if before == nil {
		if len(d.waiting) > 0 {
			d.due = time.Now().Add(s.spec.Hold)
		}
		return d.due
	}
	d.waiting = slices.DeleteFunc(d.waiting, func(c listen.Client) bool { return !slices.Contains(before, c) })
	if len(d.waiting) > 0 {
		s.log.Warn("service runs, and takes no client: "+s.explainDeaf(), "pid", s.run.pid(), "socket", d.socket.String(), "clients", len(d.waiting), "hold", s.spec.Hold)
	}
	return time.Time{}
}

// explainDeaf says why, as far as that can be seen.
func (s *shared) explainDeaf() string {
	const either = "either it hangs, or it does not use the sockets that it is given by LISTEN_FDS; "
	if address := s.run.deaf.socket.Spec().Address; s.spec.Handover == spec.FDs && address.Path == "" {
		protocol := spec.TCP
		if address.IsUDP() {
			protocol = spec.UDP
		}
		if bound := s.run.child.FindBound(string(protocol)); len(bound) > 0 {
			at := nameBound(protocol, bound[0])
			return fmt.Sprintf(either+"it binds %s itself, in its own network, where no client comes: for that "+
				"write handover = \"bind\" below [service], and target = %q below the [[socket]] of %s", at, address.FindTarget(at).String(), address)
		}
	}
	return either + "many programs want a switch for that, and for one that knows only its own addresses there is handover = \"bind\" or \"proxy\""
}

// nameBound is where a socket is bound, as the configuration has it.
func nameBound(protocol spec.Network, at netip.AddrPort) spec.Address {
	a := spec.Address{Network: protocol, IP: at.Addr(), Port: uint32(at.Port())}
	if a.IP.IsUnspecified() {
		if a.IP.Is4() {
			a.Network += "4"
		}
		a.IP = netip.Addr{}
	}
	return a
}

// noteLeaving says that a program mostly goes to the background which ends at once with 0 and leaves the client that it was
// started for in the queue, for the second time: its pid namespace ends with it. From the next run on a parent stays, by
// which a child that goes on serving is running.
func (s *shared) noteLeaving(p *run) {
	if oldest := s.queues.findOldest(); s.leavingTold || oldest.IsZero() || !oldest.Before(p.started) {
		return
	}
	const leaving = "service has ended at once with 0, again, and its clients still wait: a program that goes to the background ends with its first process; "
	cure := "keep it in the foreground, by a switch such as -f, -D, -n or --foreground"
	if s.leavingTold = s.spec.Sandbox.Init || s.spec.Container != nil; !s.leavingTold {
		s.spec.Sandbox.Init = true
		cure += "; from now on a parent stays, as by init = true below [sandbox]: if a child of it serves, it is running"
	}
	s.log.Warn(leaving+cure, "pid", p.pid())
}
