package usernotif

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockopt"
)

// verdict is the answer to a call: an errno, 0 for success, or pass, with which the kernel
// carries it out itself.
type verdict struct {
	errno unix.Errno
	pass  bool
}

// request is a call that waits for its answer, with our copies.
type request struct {
	notification
	number   int    // the program's descriptor
	fd       int    // our copy of it
	sockaddr []byte // our copy; nil of listen; of ioctl a struct ifreq, of setsockopt the value
	domain   int
}

// answerCall copies what the call is about and answers it: at once, or from a goroutine if
// the call may wait for the network.
func (s *Supervisor) answerCall(n notification) {
	if s.policy.Refusal != nil {
		if v, decided := s.answerObserved(n); decided {
			s.sendResponse(n.ID, v)
			return
		}
	}
	if n.Nr == unix.SYS_SOCKET {
		s.sendResponse(n.ID, s.makeSocket(n))
		return
	}
	if c, ok := ownerCalls[n.Nr]; ok {
		s.sendResponse(n.ID, s.changeOwner(n, c))
		return
	}
	r, ok := s.copyCall(n)
	switch {
	case !ok:
	case n.Nr == unix.SYS_CONNECT && s.mayBlock(r.fd):
		s.connectAside(r)
	default:
		s.sendResponse(n.ID, s.decideCall(&r))
		_ = unix.Close(r.fd)
	}
}

// copyCall copies what the call is about; false: it has been answered.
func (s *Supervisor) copyCall(n notification) (r request, ok bool) {
	r = request{notification: n, number: int(int32(n.Args[0]))}
	var err error
	if r.fd, err = takeDescriptor(n.PID, r.number); err != nil {
		v := verdict{errno: errnoOf(err)}
		if n.Nr == sockopt.SetCall && v.errno == unix.EPERM { // of a program that its user may not read
			v = answerUnseen(n)
		}
		s.sendResponse(n.ID, v)
		return r, false
	}
	switch n.Nr {
	case unix.SYS_LISTEN:
	case sockopt.SetCall:
		r.sockaddr, err = copyOption(n.PID, sockopt.UseOf(optionOf(n)), n.Args[3], int32(n.Args[4]))
	case unix.SYS_IOCTL:
		r.sockaddr, err = copyAddress(n.PID, n.Args[2], sizeofIfreq)
	default:
		r.sockaddr, err = copyAddress(n.PID, n.Args[1], uint64(uint32(n.Args[2])))
	}
	if err != nil || !s.isValid(n.ID) {
		_ = unix.Close(r.fd)
		s.sendResponse(n.ID, verdict{errno: errnoOf(err)})
		return r, false
	}
	return r, true
}

// decideCall judges a call by our copies of descriptor and address. It carries the call out
// if that is about the service's own network namespace.
//
// The kernel reads a call that is passed on once more, and the program may have put another
// socket or address there: that must be harmless. A TCP socket of the host's can then be
// dissolved. It can be neither connected nor bound, which Landlock refuses. Nor can it listen:
// listen is never passed on where a socket could be dissolved. Where Landlock does not refuse
// (Policy.Alone), nothing is passed on.
func (s *Supervisor) decideCall(r *request) verdict {
	var err error
	if r.domain, err = unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil {
		return verdict{errno: errnoOf(err)}
	}
	nr := int(r.Nr)
	switch {
	case nr == sockopt.SetCall:
		return s.setOption(r)
	case s.isEngine(r.PID):
		return judgeEngine(r.domain)
	case nr == unix.SYS_LISTEN:
		return s.answerListen(r)
	case nr == unix.SYS_IOCTL:
		return s.raiseLoopback(r)
	case nr == unix.SYS_BIND:
		return s.answerBind(r)
	case nr != unix.SYS_CONNECT:
		return verdict{errno: unix.ENOSYS}
	case r.domain == unix.AF_UNIX && !s.policy.Unix:
		return s.connectReport(r)
	case r.domain == unix.AF_UNIX:
		return s.answerConnectUnix(r)
	case r.domain == unix.AF_NETLINK:
		return s.answerNetlink(r)
	case !s.policy.IP || !s.ownsSocket(r):
		return verdict{errno: unix.EPERM}
	}
	return s.carryOut(r)
}

// answerBind gives the service the target that it asks for. An address that matches no target
// is bound in the service's own namespaces.
func (s *Supervisor) answerBind(r *request) verdict {
	if v, given := s.giveTarget(r); given {
		return v
	}
	switch {
	case s.policy.Free:
		return verdict{pass: true}
	case r.domain == unix.AF_NETLINK:
		return s.answerNetlink(r)
	case r.domain == unix.AF_UNIX:
		return s.answerBindUnix(r)
	case !s.ownsSocket(r) || !s.policy.IP && len(s.targets) == 0 && !isDatagram(r.fd):
		return verdict{errno: unix.EPERM} // without IP a UDP socket may still be bound: it reaches no one
	case hasPort(r.sockaddr):
		if !isDatagram(r.fd) { // every server does, and the filter answers it without effect
			sockopt.SetReuseAddress(r.fd, true)
		}
		return s.callInPlace(r, (*behalf.Place).Bind)
	}
	return s.carryOut(r)
}

// answerBindUnix passes paths on: the service's own root and mount namespace decide. Abstract
// names belong to the network namespace of the socket.
func (s *Supervisor) answerBindUnix(r *request) verdict {
	switch {
	case !s.isInNetwork(r):
		return verdict{errno: unix.EPERM}
	case isAbstract(r.sockaddr):
		return s.carryOut(r)
	case s.policy.Alone:
		return s.callInPlace(r, (*behalf.Place).Bind)
	}
	return verdict{pass: true}
}

// answerConnectUnix passes every call on. The service's own root and mount namespace decide; of
// abstract names the socket's network namespace does, or Landlock.
func (s *Supervisor) answerConnectUnix(r *request) verdict {
	switch {
	case !s.policy.Alone:
		return verdict{pass: true}
	case isAbstract(r.sockaddr) && !s.isInNetwork(r):
		return verdict{errno: unix.EPERM}
	}
	return s.callInPlace(r, (*behalf.Place).Connect)
}

func isAbstract(sockaddr []byte) bool { return len(sockaddr) > 2 && sockaddr[2] == 0 }

// answerNetlink carries out, where nothing may be passed on, the calls that gain no right by being
// ours: bind(2), since every process may join the groups of NETLINK_ROUTE, and connect(2) to
// the kernel, netlink(7).
func (s *Supervisor) answerNetlink(r *request) verdict {
	switch {
	case !s.policy.Alone:
		return verdict{pass: true}
	case !s.isInNetwork(r), r.Nr == unix.SYS_CONNECT && len(bytes.Trim(r.sockaddr[min(len(r.sockaddr), 4):], "\x00")) > 0:
		return verdict{errno: unix.EPERM}
	}
	return s.carryOut(r)
}

// callInPlace has a child make the call, with the service's ids and in its root.
func (s *Supervisor) callInPlace(r *request, call func(p *behalf.Place, fd int, sockaddr []byte) error) verdict {
	place, err := s.openPlace(r)
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	defer place.Close()
	if err := place.OpenRoot(int(r.PID)); err != nil || !s.isValid(r.ID) {
		return verdict{errno: errnoOf(err)}
	}
	errno := errnoOf(call(place, r.fd, r.sockaddr))
	// Before Linux 5.19 a signal makes the thread ask once more, after the call was carried out.
	switch {
	case errno == unix.EADDRINUSE && hasName(r, readBoundAddress), errno == unix.EISCONN && hasName(r, readPeerAddress):
		errno = 0
	}
	return verdict{errno: errno}
}

func hasName(r *request, name func(fd int) ([]byte, error)) bool {
	at, err := name(r.fd)
	return err == nil && pathOf(at) != "" && pathOf(at) == pathOf(r.sockaddr)
}

// openPlace opens the place of the thread that calls. The caller closes it.
func (s *Supervisor) openPlace(r *request) (*behalf.Place, error) {
	place, err := behalf.OpenPlace(int(r.PID))
	if err == nil && !s.isValid(r.ID) {
		place.Close()
		err = unix.ESRCH
	}
	if err != nil {
		return nil, err
	}
	return place, nil
}

func (s *Supervisor) carryOut(r *request) verdict {
	return verdict{errno: errnoOf(callWithAddress(uintptr(r.Nr), r.fd, r.sockaddr))}
}

// hasPort reports whether the call asks for a port. Some ports need a right that the service
// may not have.
func hasPort(sockaddr []byte) bool {
	return len(sockaddr) >= 4 && (sockaddr[2] != 0 || sockaddr[3] != 0)
}

// answerListen never passes a call on where we answer connect: a dissolved connection of the
// host's would listen on a new port there. A socket that listens already gets its backlog.
// Where connect is never passed on, nothing can be dissolved, and a connected socket cannot
// listen (inet_listen in net/ipv4/af_inet.c).
func (s *Supervisor) answerListen(r *request) verdict {
	listening, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	target, err := s.giveLate(r)
	switch {
	case err != nil:
		return verdict{errno: errnoOf(err)}
	case target >= 0:
		s.markServed(r, target)
	}
	switch {
	case s.policy.Free, r.domain == unix.AF_UNIX && !s.policy.Unix && !s.policy.IP:
		return verdict{pass: true}
	case target >= 0:
		return verdict{errno: errnoOf(fd.Control(s.targets[target].File, func(fd int) error { return s.carryListen(r, fd) }))}
	case listening == 0 && r.domain != unix.AF_UNIX && !(s.mayListen() && s.ownsSocket(r)):
		return verdict{errno: unix.EPERM}
	}
	return verdict{errno: errnoOf(s.carryListen(r, r.fd))}
}

// carryListen makes fd listen for the service. The clients of a unix socket see the caller in
// SO_PEERCRED: that is the service, and not us.
func (s *Supervisor) carryListen(r *request, fd int) error {
	backlog := int(int32(r.Args[1]))
	if r.domain != unix.AF_UNIX {
		return unix.Listen(fd, backlog)
	}
	place, err := s.openPlace(r)
	if err != nil {
		return err
	}
	defer place.Close()
	return place.Listen(fd, backlog)
}

// mayListen reports whether other sockets may listen: with targets, those that the service binds
// beside them stay in its own network too.
func (s *Supervisor) mayListen() bool { return s.policy.IP || len(s.targets) > 0 }

// connectReport connects a datagram socket to one that services report to, sd_notify(3) and syslog(3),
// and to nothing that the service may have put in its place. A datagram socket has no peer that
// would take us for its owner.
func (s *Supervisor) connectReport(r *request) verdict {
	kind, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	i := slices.IndexFunc(s.policy.Reports, func(to Report) bool { return to.Path == pathOf(r.sockaddr) })
	if err != nil || kind != unix.SOCK_DGRAM || i < 0 {
		return verdict{errno: unix.EPERM}
	}
	as := func(call func() error) error { return call() } // the node is ours, and open to all in a container
	if s.policy.Engine == 0 {
		ids, err := behalf.IDsOf(int(r.PID))
		if err != nil || !s.isValid(r.ID) {
			return verdict{errno: errnoOf(err)}
		}
		as = ids.Do
	}
	return verdict{errno: errnoOf(fd.Control(s.policy.Reports[i].Node, func(node int) error {
		to := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", node)}
		return as(func() error { return unix.Connect(r.fd, to) })
	}))}
}

// ownsSocket reports whether the call is about an IP socket of the service's own network namespace.
func (s *Supervisor) ownsSocket(r *request) bool {
	if r.domain != unix.AF_INET && r.domain != unix.AF_INET6 {
		return false
	}
	return s.isInNetwork(r)
}

func (s *Supervisor) isInNetwork(r *request) bool {
	if s.policy.Engine != 0 {
		return s.policy.Free || isInCallersNetwork(r)
	}
	cookie, err := netnsCookie(r.fd)
	return err == nil && cookie == s.policy.Netns
}

func isDatagram(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && kind == unix.SOCK_DGRAM
}

// mayBlock reports whether connect(2) may wait: for the other side, with a stream socket that
// blocks, or for a child.
func (s *Supervisor) mayBlock(fd int) bool {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil || domain == unix.AF_UNIX {
		return err == nil && s.policy.Alone
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	flags, flagsErr := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flagsErr == nil && kind == unix.SOCK_STREAM && flags&unix.O_NONBLOCK == 0
}

// connectAside answers a call that may block, and takes r's descriptor. There are no more of these
// than threads that wait in the service, and at most mostBlocked of them have a thread and a descriptor of ours: what the others
// are about is copied anew when it is their turn.
func (s *Supervisor) connectAside(r request) {
	begun := false
	select {
	case s.slots <- struct{}{}:
		begun = true
	default:
		_ = unix.Close(r.fd)
	}
	s.calls.Go(func() {
		if !begun {
			s.slots <- struct{}{}
			var ok bool
			if r, ok = s.copyCall(r.notification); !ok {
				<-s.slots
				return
			}
		}
		s.finishAside(r)
		<-s.slots
	})
}

// finishAside takes r's descriptor.
func (s *Supervisor) finishAside(r request) {
	defer func() { _ = unix.Close(r.fd) }()
	if !s.beginCall(r.fd) {
		return // the service no longer waits for the answer
	}
	v := s.decideCall(&r)
	s.endCall(r.fd)
	s.sendResponse(r.ID, v)
}

func (s *Supervisor) beginCall(fd int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.pending[fd] = true
	return true
}

func (s *Supervisor) endCall(fd int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pending, fd)
}

func errnoOf(err error) unix.Errno {
	var errno unix.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}
