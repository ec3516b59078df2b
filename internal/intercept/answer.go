package intercept

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// verdict is the answer to a call: its errno, 0 for success, or that the kernel
// may carry it out itself.
type verdict struct {
	errno unix.Errno
	pass  bool
}

// answer takes what the call is about and answers it, at once or from a
// goroutine if it may wait for the network.
func (s *Supervisor) answer(n notification) {
	fd, err := take(n.PID, int(int32(n.Args[0])))
	if err != nil {
		s.respond(n.ID, verdict{errno: errnoOf(err)})
		return
	}
	var sockaddr []byte
	if n.Nr != unix.SYS_LISTEN {
		sockaddr, err = address(n.PID, n.Args[1], uint64(uint32(n.Args[2])))
	}
	if err != nil || !s.valid(n.ID) {
		_ = unix.Close(fd)
		s.respond(n.ID, verdict{errno: errnoOf(err)})
		return
	}
	if n.Nr == unix.SYS_CONNECT && s.mayBlock(fd) {
		s.connectAside(n, fd, sockaddr)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	s.respond(n.ID, s.decide(n.PID, int(n.Nr), fd, sockaddr, int(int32(n.Args[1]))))
}

// decide judges a call by the descriptor fd and the address we hold, and carries
// it out where it is about the service's own network namespace.
//
// What is passed on to the kernel is read by it once more, and the program may
// have put another socket or address there: that must be harmless. A TCP socket of
// the host's can then be dissolved, but neither connected nor bound, which Landlock
// refuses, nor listened on, which is never passed on.
func (s *Supervisor) decide(thread uint32, nr, fd int, sockaddr []byte, backlog int) verdict {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	switch {
	case nr == unix.SYS_LISTEN:
		return s.listen(fd, domain, backlog)
	case domain == unix.AF_UNIX && nr == unix.SYS_CONNECT && !s.policy.Unix:
		return s.report(thread, fd, sockaddr)
	case domain == unix.AF_UNIX, domain == unix.AF_NETLINK:
		return verdict{pass: true} // its own root and mount namespace decide
	case !s.own(fd, domain) || !s.policy.IP && !harmless(nr, fd):
		return verdict{errno: unix.EPERM}
	case nr == unix.SYS_CONNECT, nr == unix.SYS_BIND:
		return verdict{errno: errnoOf(call(uintptr(nr), fd, sockaddr))}
	}
	return verdict{errno: unix.ENOSYS}
}

// listen never lets the kernel look again: a dissolved connection of the host's
// would listen on a new port there. A socket that listens already gets its
// backlog. The price: the peers of a unix socket see us in SO_PEERCRED.
func (s *Supervisor) listen(fd, domain, backlog int) verdict {
	listening, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	switch {
	case err != nil:
		return verdict{errno: errnoOf(err)}
	case listening == 0 && domain != unix.AF_UNIX && !(s.policy.IP && s.own(fd, domain)):
		return verdict{errno: unix.EPERM}
	}
	return verdict{errno: errnoOf(unix.Listen(fd, backlog))}
}

// report connects a datagram socket to where services report to, sd_notify(3). A
// datagram socket has no peer that would take us for its owner.
func (s *Supervisor) report(thread uint32, fd int, sockaddr []byte) verdict {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_DGRAM || s.policy.Notify == "" || pathOf(sockaddr) != s.policy.Notify {
		return verdict{errno: unix.EPERM}
	}
	node, err := inRoot(thread, s.policy.Notify)
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	defer func() { _ = unix.Close(node) }()
	return verdict{errno: errnoOf(unix.Connect(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d", node)}))}
}

// own reports whether fd is an IP socket of the service's own network namespace.
func (s *Supervisor) own(fd, domain int) bool {
	if domain != unix.AF_INET && domain != unix.AF_INET6 {
		return false
	}
	cookie, err := netnsCookie(fd)
	return err == nil && cookie == s.policy.Netns
}

// harmless: without IP a UDP socket may still be bound, it reaches nobody.
func harmless(nr, fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && nr == unix.SYS_BIND && kind == unix.SOCK_DGRAM
}

// mayBlock: connect(2) of a stream socket that is not non-blocking waits for the
// other side.
func (s *Supervisor) mayBlock(fd int) bool {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return false
	}
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	flags, flagsErr := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	return err == nil && flagsErr == nil && domain != unix.AF_UNIX && flags&unix.O_NONBLOCK == 0
}

// connectAside takes fd. There are no more of these than threads that wait in the
// service, and no more than mostBlocked of them have a thread of ours.
func (s *Supervisor) connectAside(n notification, fd int, sockaddr []byte) {
	s.calls.Go(func() {
		s.slots <- struct{}{}
		defer func() { <-s.slots }()
		defer func() { _ = unix.Close(fd) }()
		if !s.begin(fd) {
			return // nobody waits for the answer any more
		}
		v := s.decide(n.PID, unix.SYS_CONNECT, fd, sockaddr, 0)
		s.end(fd)
		s.respond(n.ID, v)
	})
}

func (s *Supervisor) begin(fd int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.pending[fd] = true
	return true
}

func (s *Supervisor) end(fd int) {
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
