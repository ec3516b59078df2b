package usernotif

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// given is a target, and what the service has done with it.
type given struct {
	Target
	cookie uint64 // of its socket
	domain int    // of its socket
	bound  bool   // the service has it
	warned bool
	served bool // it has called listen, or has no need to
}

// giveTarget replaces the socket that the service binds by the target's. It is false if the call
// means no target.
//
// It replaces the descriptor at a number. Another thread may have put a third socket there
// meanwhile. That is harmless: the service loses a socket by its own act, and what it gets
// depends only on its question. Every process behind this filter may have every target, as often
// as it likes.
//
// A path is answered only when the service listens, see giveLate: the node that it makes inside
// belongs to it.
func (s *Supervisor) giveTarget(r *request) (v verdict, given bool) {
	n, ok := s.parseRequest(r)
	if !ok {
		return verdict{}, false
	}
	i := findTarget(s.list, n)
	s.noteBound(r.notification, n, i)
	switch {
	case i < 0:
		s.noteName(n)
		return verdict{}, false
	case s.findOurs(r.fd) == i && i >= 0:
		return verdict{}, true // before Linux 5.19 a signal made it ask once more
	case !s.policy.Free && !s.isInNetwork(r):
		return verdict{errno: unix.EPERM}, true
	case isBound(r.fd):
		return verdict{errno: unix.EINVAL}, true
	case isGivenLate(n):
		return verdict{}, false
	}
	if err := s.putSocket(r, i); err != nil {
		return verdict{errno: errnoOf(err)}, true
	}
	s.warnOfFamily(i, n, r.domain)
	if n.kind == unix.SOCK_DGRAM {
		s.markServed(r, i)
	}
	return verdict{}, true
}

// parseRequest returns the name that a bind asks for, if its socket is like those of targets.
func (s *Supervisor) parseRequest(r *request) (name, bool) {
	if len(s.targets) == 0 {
		return name{}, false
	}
	kind, ok := isLikeTarget(r.fd, r.domain)
	if !ok {
		return name{}, false
	}
	v6Only := 0
	if r.domain == unix.AF_INET6 {
		v6Only, _ = unix.GetsockoptInt(r.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
	}
	n, ok := parseName(r.domain, kind, v6Only != 0, r.sockaddr)
	return n.makeAbsolute(func() string { return workingDirectory(r.PID) }), ok
}

// isLikeTarget returns the type of a unix, TCP or UDP socket. TCP of several paths is included:
// Go programs listen with it.
func isLikeTarget(fd, domain int) (kind int, ok bool) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || domain == unix.AF_UNIX {
		return kind, err == nil
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || domain != unix.AF_INET && domain != unix.AF_INET6 {
		return kind, false
	}
	return kind, protocol == unix.IPPROTO_TCP || protocol == unix.IPPROTO_MPTCP || protocol == unix.IPPROTO_UDP
}

// isGivenLate reports whether the target is one of connections, at a path.
func isGivenLate(n name) bool {
	return n.path != "" && n.path[0] == '/' && n.kind != unix.SOCK_DGRAM
}

// isBound reports whether an internet socket has a port, or a unix socket a name.
func isBound(fd int) bool {
	at, err := readBoundAddress(fd)
	if err != nil || len(at) <= 2 {
		return false
	}
	return binary.NativeEndian.Uint16(at) == unix.AF_UNIX || len(at) >= 4 && (at[2] != 0 || at[3] != 0)
}

// giveLate finds the target of a socket that is to listen: one that we gave, one that another process got in place of this
// socket, or one by the path that the socket is bound to, which cannot change any more. In the last two cases the service gets
// our socket now. -1: none.
func (s *Supervisor) giveLate(r *request) (target int, err error) {
	if len(s.targets) == 0 {
		return -1, nil
	}
	if i := s.findOurs(r.fd); i >= 0 {
		return i, nil
	}
	if i := s.findReplaced(r.fd); i >= 0 {
		return i, s.putSocket(r, i)
	}
	if r.domain != unix.AF_UNIX || !s.policy.Free && !s.isInNetwork(r) {
		return -1, nil
	}
	kind, _ := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	at, err := readBoundAddress(r.fd)
	if err != nil {
		return -1, nil
	}
	n, ok := parseName(r.domain, kind, false, at)
	n = n.makeAbsolute(func() string { return workingDirectory(r.PID) })
	i := findTarget(s.list, n)
	if !ok || i < 0 || !isGivenLate(n) {
		return -1, nil
	}
	return i, s.putSocket(r, i)
}

// putSocket replaces the service's descriptor by the socket of target i, and all copies of it. The new one keeps the
// close-on-exec flag, the options and O_NONBLOCK of the old one, and is in the epolls that the old one was in. All users of our
// socket share O_NONBLOCK: the last change counts.
func (s *Supervisor) putSocket(r *request, i int) error {
	flags, err := unix.FcntlInt(uintptr(r.fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	used, unknown := s.findUses(r.PID, r.number, r.fd)
	err = fd.Control(s.targets[i].File, func(ours int) error {
		sockopt.CarryOptions(r.fd, ours, !s.policy.Unsealed)
		return unix.SetNonblock(ours, flags&unix.O_NONBLOCK != 0)
	})
	if err == nil {
		err = s.putAt(r, i, r.number)
	}
	if err != nil {
		return err
	}
	s.noteReplaced(r.fd, i)
	if err := cmp.Or(unknown, s.follow(r, used, i)); err != nil {
		s.warnUses(fmt.Sprintf("may use the socket that it binds to %s by more than one descriptor, or in an epoll, which could not be kept up (%v)", s.targets[i].Address, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.targets[i].bound = true
	return nil
}

// findOurs returns the target whose socket fd is; -1: none.
func (s *Supervisor) findOurs(fd int) int {
	cookie, err := cookieOf(fd)
	if err != nil {
		return -1
	}
	for i := range s.targets {
		if s.targets[i].cookie == cookie {
			return i
		}
	}
	return -1
}

// markServed remembers that the service answers at target i, from r on.
func (s *Supervisor) markServed(r *request, i int) {
	t := &s.targets[i]
	if t.served { // only Run's goroutine changes it
		return
	}
	s.warnOfOthers(r, i)
	s.mu.Lock()
	defer s.mu.Unlock()
	t.served = true
	if s.missing--; s.missing == 0 {
		close(s.serving)
	}
}

// warnOfFamily tells of a program that may misread its clients' addresses, since it made room for those
// of IPv4, and of one that may be unable to answer datagrams: it names their clients by IPv6.
func (s *Supervisor) warnOfFamily(i int, n name, domain int) {
	t := &s.targets[i]
	what := ""
	switch {
	case domain == unix.AF_INET && t.domain == unix.AF_INET6:
		what = ", of IPv4 alone, but gets a socket of IPv6: it may misread its clients' addresses, so give it one of IPv4 in listen"
	case domain == unix.AF_INET6 && t.domain == unix.AF_INET && n.kind == unix.SOCK_DGRAM:
		what = fmt.Sprintf(" by a socket of IPv6, but gets one of IPv4: it may be unable to answer, so write target = \"udp6://:%d\" below its [[socket]]", n.port)
	}
	if what == "" || t.warned || s.policy.Warn == nil {
		return
	}
	t.warned = true // only Run's goroutine comes here
	s.policy.Warn("binds " + n.String() + what)
}

// Serving is closed when the service listens at every target, or has bound it for
// datagrams.
func (s *Supervisor) Serving() <-chan struct{} { return s.serving }

// mostNoted bounds the list of other names that a service has bound.
const mostNoted = 8

// noteName remembers a name that the service bound in its own namespaces, and tells of it, once, while a target
// is missing.
func (s *Supervisor) noteName(n name) {
	if missing := s.noteNewName(n); missing != "" && s.policy.Warn != nil {
		s.policy.Warn(fmt.Sprintf("binds %s, which is no target, and %s is still missing: if that is the one, write target = %q below its [[socket]]", n, missing, n))
	}
}

// noteBound tells what a program that is observed binds, and for which target that is taken; -1: for none.
func (s *Supervisor) noteBound(call notification, n name, target int) {
	if s.policy.Refusal == nil {
		return
	}
	var f spec.Finding
	f.Bound, _ = spec.ParseAddress(n.String())
	if target >= 0 {
		f.For = s.list[target].Address
	}
	s.note(call, f)
}

// noteNewName returns a target that the service does not serve yet, if the name is a new one.
func (s *Supervisor) noteNewName(n name) (missing string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.noted) >= mostNoted || s.noted[n.String()] {
		return ""
	}
	s.noted[n.String()] = true
	for i := range s.targets {
		if t := &s.targets[i]; !t.served && !t.bound && t.Address.Type() == n.kind {
			return t.Address.String()
		}
	}
	return ""
}

// DescribeMissing says what the service has not bound, or does not listen at, and what it
// has bound instead; "" when it serves every target.
func (s *Supervisor) DescribeMissing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lacks []string
	for i := range s.targets {
		switch t := &s.targets[i]; {
		case t.served:
		case t.bound:
			lacks = append(lacks, "it does not listen at "+t.Address.String())
		default:
			lacks = append(lacks, "it has not bound "+t.Address.String())
		}
	}
	if len(lacks) == 0 {
		return ""
	}
	text := strings.Join(lacks, ", ")
	if len(s.noted) > 0 {
		text += "; it has bound " + strings.Join(slices.Sorted(maps.Keys(s.noted)), ", ") + ", which is no target"
	}
	return text
}
