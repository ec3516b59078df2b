package listen

import (
	"errors"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// maxRefused bounds what one call takes off a queue.
const maxRefused = 4096

// RefuseClients turns away the clients that have waited longest, at most most of them, and returns how
// many: connections are accepted and closed, datagrams received and dropped, a
// FIFO is read empty and counts in bytes. It never waits. Only while no program has the
// socket: it sets O_NONBLOCK meanwhile, which all holders share, a sandbox too that
// stands and waits for its program's first client.
func (s *Socket) RefuseClients(most int) (refused int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return 0, err
	}
	early := s.pending.refuseOldest(most)
	most -= early
	if err := s.setFlags(true); err != nil {
		return early, err
	}
	defer func() { refused += early }()
	defer func() { err = errors.Join(err, s.setFlags(s.spec.Options.NonBlocking)) }()
	switch {
	case s.spec.Address.Network == spec.FIFO:
		buf, dropped := make([]byte, 64<<10), 0
		_, err = s.refuseAll("read", maxRefused, func(fd int) error {
			n, err := unix.Read(fd, buf)
			dropped += max(n, 0)
			if err == nil && n == 0 {
				return unix.EAGAIN
			}
			return err
		})
		return dropped, err
	case s.spec.Address.IsStream():
		return s.refuseAll("accept", most, func(fd int) error {
			conn, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if err == nil {
				_ = unix.Close(conn)
			}
			return err
		})
	default:
		// Without room for control messages descriptors sent along are closed
		// by the kernel. unix(7).
		return s.refuseAll("recvfrom", most, func(fd int) error {
			_, _, err := unix.Recvfrom(fd, nil, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
			return err
		})
	}
}

// refuseAll repeats take until nothing is left.
func (s *Socket) refuseAll(call string, most int, take func(fd int) error) (taken int, err error) {
	err = s.controlFront(call, func(fd int) error {
		for range min(most, maxRefused) {
			switch err := take(fd); err {
			case nil:
				taken++
			case unix.EAGAIN:
				return nil
			case unix.EINTR, unix.ECONNABORTED, unix.ECONNREFUSED, unix.ECONNRESET, unix.EPROTO,
				unix.ENETDOWN, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.ETIMEDOUT:
				// Of a client that is gone already, or a pending error of the
				// network: accept(2).
			default:
				return err
			}
		}
		return nil
	})
	return taken, err
}
