package udprelay

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
)

// nobody is the kernel's overflow id, proc_sys_kernel(5).
const nobody = 65534

// newRelay makes a relay of host, which has no carrier yet.
func newRelay(host *os.File, o Options) (r *relay, err error) {
	if o.UID == 0 {
		o.UID, o.GID = nobody, nobody
	}
	if o.Undelivered == nil {
		o.Undelivered = new(Undelivered)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r = &relay{options: o, flows: newFlowTable(o.Expire), lost: make(lostLog), start: time.Now()}
	if r.host, err = fd.DupFile(host); err != nil {
		return nil, err
	}
	if r.poll, err = openPoller(); err != nil {
		_ = unix.Close(r.host)
		return nil, err
	}
	if err = r.examineHost(); err == nil {
		err = r.poll.watchSocket(r.host, hostSlot, 0, unix.EPOLLIN)
	}
	if err == nil {
		err = r.prepareHost()
	}
	if err != nil {
		return nil, r.failOpening(err)
	}
	return r, nil
}

// begin gives r its carrier.
func (r *relay) begin(c carrier) {
	r.carrier = c
	r.first = r.options.Undelivered.takeAll()
}

// failOpening closes a relay that has not begun.
func (r *relay) failOpening(err error) error {
	_ = r.releaseHost()
	return fmt.Errorf("relay %s: %w", r.self.String(), err)
}

// examineHost looks at the host's socket.
func (r *relay) examineHost() (err error) {
	if r.self, err = sockaddr.Local(r.host); err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	kind, err := unix.GetsockoptInt(r.host, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_TYPE", err)
	}
	r.family = r.self.Family()
	ip := r.self.IP().Unmap()
	r.wildcard = ip.IsValid() && ip.IsUnspecified()
	switch {
	case kind != unix.SOCK_DGRAM || !ip.IsValid() && r.family != unix.AF_UNIX:
		return errors.New("only UDP and unix datagram sockets are relayed")
	case r.family == unix.AF_UNIX && r.self.N <= sockaddr.PathAt || ip.IsValid() && r.self.Port() == 0:
		return errors.New("the socket is not bound")
	case ip.IsMulticast() || ip == broadcast:
		return errors.New("a multicast address cannot be relayed: nothing can answer from it")
	}
	return nil
}

// option is a socket option that is a C int.
type option struct{ level, name, value int }

func (o option) set(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, o.level, o.name, o.value))
}

// prepareHost asks for what is needed with each datagram, and remembers how it
// was: the address that was asked, or which process asked, and when.
func (r *relay) prepareHost() error {
	var wanted []option
	switch {
	case r.family == unix.AF_UNIX:
		wanted = []option{{unix.SOL_SOCKET, unix.SO_PASSCRED, 1}, {unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, 1}}
	case r.wildcard && r.family == unix.AF_INET6:
		wanted = []option{{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}}
	case r.wildcard:
		wanted = []option{{unix.SOL_IP, unix.IP_PKTINFO, 1}}
	}
	for _, o := range wanted {
		before, err := unix.GetsockoptInt(r.host, o.level, o.name)
		if err != nil {
			return os.NewSyscallError("getsockopt", err)
		}
		if err := o.set(r.host); err != nil {
			return err
		}
		r.restore = append(r.restore, option{o.level, o.name, before})
	}
	return nil
}
