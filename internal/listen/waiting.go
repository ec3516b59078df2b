package listen

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// seed makes the identity of a datagram: same sender, same bytes.
var seed = maphash.MakeSeed()

// WaitingClients lists the clients that wait. Connections are listed one by one (sock_diag(7)); of
// datagrams only the first in the queue is, and of what the kernel does not list
// (vsock, FIFO) only that one waits. Nothing is taken off the queue. A client that was
// accepted for a run that is over waits too, see [Socket.Pending].
func (s *Socket) WaitingClients() (waiting []Client, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	defer func() { waiting = append(waiting, s.pending.listClients()...) }()
	ready := false
	err = s.controlFront("poll", func(fd int) error {
		ready = pollNow(fd)&unix.POLLIN != 0
		return nil
	})
	if err != nil || !ready {
		return nil, err
	}
	err = control(s.frontFile(), func(fd int) (err error) {
		switch a := s.spec.Address; {
		case a.Network == spec.FIFO || a.Network == spec.VSock:
			waiting = []Client{"somebody"}
		case !a.IsStream():
			waiting, err = firstDatagram(fd)
		case a.IsTCP():
			waiting, err = waitingTCP(fd)
		default:
			waiting, err = waitingUnix(fd)
		}
		return err
	})
	return waiting, wrapError(s.spec.Address, "", err, "")
}

// firstDatagram peeks at the head of the queue. Two equal datagrams of one
// sender are one to it.
func firstDatagram(socket int) ([]Client, error) {
	var buf [512]byte
	var n int
	var from unix.Sockaddr
	err := fd.RetryEINTR(func() (err error) {
		n, from, err = unix.Recvfrom(socket, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err
	})
	switch err {
	case nil:
		return []Client{Client(fmt.Sprintf("%v %x", from, maphash.Bytes(seed, buf[:n])))}, nil
	case unix.EAGAIN, unix.ECONNREFUSED, unix.ENOTCONN:
		return nil, nil
	}
	return nil, os.NewSyscallError("recvfrom", err)
}

// waitingTCP asks for the connections to our port that no file descriptor
// belongs to yet: those in the accept queue, established, or already half closed by the client.
func waitingTCP(fd int) ([]Client, error) {
	var waiting []Client
	err := eachTCP(fd, sockdiag.Established|sockdiag.CloseWait, func(c *sockdiag.InetSocket) {
		if c.Inode == 0 {
			waiting = append(waiting, Client(c.Remote.String()))
		}
	})
	return waiting, err
}

// eachTCP lists the connections to the address of the listener fd, in one of the
// states of a mask.
func eachTCP(fd int, states uint32, each func(*sockdiag.InetSocket)) error {
	return askTCP(fd, sockdiag.Inet{States: states}, each)
}

// askTCP is eachTCP with a question that lacks what follows from fd.
func askTCP(fd int, q sockdiag.Inet, each func(*sockdiag.InetSocket)) error {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	ours := addrPort(local)
	q.Family, q.Protocol, q.Port = unix.AF_INET, unix.IPPROTO_TCP, ours.Port()
	if _, six := local.(*unix.SockaddrInet6); six {
		q.Family = unix.AF_INET6
	}
	return askSockets(func(socket int) error {
		return q.Each(socket, func(c *sockdiag.InetSocket) {
			if ours.Addr().IsUnspecified() || c.Local.Addr().Unmap() == ours.Addr().Unmap() {
				each(c)
			}
		})
	})
}

// waitingUnix asks for the peers that wait at our listener, by inode.
func waitingUnix(fd int) ([]Client, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	var waiting []Client
	err := askUnix(uint32(st.Ino), sockdiag.ShowQueue, func(s *sockdiag.UnixSocket) {
		for p := s.Queue; len(p) >= 4; p = p[4:] {
			waiting = append(waiting, Client(fmt.Sprint(binary.NativeEndian.Uint32(p))))
		}
	})
	return waiting, err
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
