package listen

import (
	"bytes"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// Activity is what can be seen from outside of the use of a socket that a service
// has.
type Activity struct {
	// Clients counts connections, accepted or still in the queue, whether the client
	// has closed its half or the service its own: for as long as a process has a
	// descriptor of them. Of datagrams it is 1 while one is in the queue.
	Clients int
	// Mark is another one whenever a datagram, or data of a FIFO, has come since.
	Mark uint64
}

// UnseenError says that nothing tells whether a socket is used.
type UnseenError struct {
	Address spec.Address
	Why     string
}

func (e *UnseenError) Error() string { return e.Address.String() + ": " + e.Why }

// CheckActivity is nil if [Socket.Activity] will see whether a socket of this spec is used.
func CheckActivity(s spec.Socket) error {
	switch {
	case s.Address.Network == spec.VSock:
		return &UnseenError{s.Address, "nothing tells who is connected by vsock"}
	case s.Address.Network == spec.UnixGram && s.Seal != spec.Relayed:
		return &UnseenError{s.Address, "nothing tells when the last datagram came to a unix socket that is not relayed"}
	case s.Address.IsUDP() && s.Seal != spec.Relayed && s.Options.Timestamping != "" && s.Options.Timestamping != "off":
		return &UnseenError{s.Address, "with timestamping nothing tells when the last datagram came"}
	}
	return nil
}

// Activity looks whether the socket is used, without taking anything off its queue. It
// walks the kernel's table of connections (sock_diag(7)): some 0.1 ms and more on a
// host with very many.
func (s *Socket) Activity() (Activity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return Activity{}, err
	}
	if err := CheckActivity(s.spec); err != nil {
		return Activity{}, err
	}
	var a Activity
	err := control(s.frontFile(), func(fd int) (err error) {
		switch address := s.spec.Address; {
		case address.IsTCP():
			a.Clients, err = connectedTCP(fd)
		case address.IsStream():
			a.Clients, err = connectedUnix(fd)
		default:
			if pollNow(fd)&unix.POLLIN != 0 {
				a.Clients = 1
			}
			a.Mark, err = s.lastData(fd)
		}
		return err
	})
	return a, wrapError(s.spec.Address, "", err, "")
}

// The states in which either side may still want something of a connection. All but the
// first two are of connections that our side has closed, at least in one direction.
const (
	statesOpen  = sockdiag.Established | sockdiag.CloseWait
	statesInUse = statesOpen | sockdiag.FinWait1 | sockdiag.FinWait2 | sockdiag.LastAck | sockdiag.Closing
)

func connectedTCP(fd int) (n int, err error) {
	err = eachTCP(fd, statesInUse, func(c *sockdiag.InetSocket) {
		// What was not accepted yet has no descriptor, what is closed neither.
		if c.Inode != 0 || c.State&statesOpen != 0 {
			n++
		}
	})
	return n, err
}

// HasConnection reports whether the socket with this inode of sockfs is a TCP connection that came to s, and
// that neither side has cut off.
func (s *Socket) HasConnection(inode uint64) (has bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checkOpen() != nil || !s.spec.Address.IsTCP() {
		return false
	}
	_ = control(s.file, func(fd int) error {
		return eachTCP(fd, statesInUse, func(c *sockdiag.InetSocket) { has = has || c.Inode != 0 && uint64(c.Inode) == inode })
	})
	return has
}

// Silences tells, by [Peer.Key], for how long neither side has sent data on the connections that came to the
// socket. The kernel does not note it of other sockets than those of TCP. It walks the table of connections, as
// Activity does.
func (s *Socket) Silences() (silent map[string]time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil || !s.spec.Address.IsTCP() {
		return nil, err
	}
	silent = make(map[string]time.Duration)
	err = control(s.file, func(fd int) error {
		return askTCP(fd, sockdiag.Inet{States: statesInUse, Silence: true}, func(c *sockdiag.InetSocket) {
			key := peerAt(c.Remote.Addr(), int(c.Remote.Port())).Key()
			if before, twice := silent[key]; !twice || c.Silent < before { // by two interfaces
				silent[key] = c.Silent
			}
		})
	})
	return silent, wrapError(s.spec.Address, "", err, "")
}

// connectedUnix counts the sockets that have the listener's name, which is theirs
// from connect(2) on (unix_stream_connect), and the queue, which the table does not
// list. The queue first: a client that is accepted meanwhile is counted twice and not missed.
func connectedUnix(fd int) (int, error) {
	waiting, err := waitingUnix(fd)
	if err != nil {
		return 0, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	// What it is bound to: the name alone may be another socket's in another root.
	const show = sockdiag.ShowName | sockdiag.ShowNode
	var name []byte
	var node sockdiag.Node
	err = askUnix(uint32(st.Ino), show, func(s *sockdiag.UnixSocket) { name, node = bytes.Clone(s.Name), s.Node })
	if err != nil {
		return 0, err
	}
	n := len(waiting)
	err = askSockets(func(socket int) error {
		return sockdiag.Unix{States: sockdiag.Established, Show: show}.Each(socket, func(s *sockdiag.UnixSocket) {
			if len(s.Name) > 0 && bytes.Equal(s.Name, name) && s.Node == node {
				n++
			}
		})
	})
	return n, err
}

// lastData tells by its mark when data came last.
func (s *Socket) lastData(fd int) (uint64, error) {
	switch {
	case s.relay != nil:
		return s.relay.Carried(), nil
	case s.spec.Address.Network == spec.FIFO:
		var st unix.Stat_t
		err := unix.Fstat(fd, &st) // its mtime is the last write(2)
		return uint64(st.Mtim.Nano()), os.NewSyscallError("fstat", err)
	case s.spec.Address.IsUDP():
		return s.lastDatagram(fd)
	}
	return 0, nil
}

// lastDatagram is SIOCGSTAMP of socket(7): when the datagram came that was received
// last, by whatever process. The first call has the kernel note it from then on. A
// service that asks for timestamps itself gets them instead.
func (s *Socket) lastDatagram(fd int) (uint64, error) {
	for _, option := range []int{unix.SO_TIMESTAMP, unix.SO_TIMESTAMPNS, unix.SO_TIMESTAMPING} {
		if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, option); err == nil && on != 0 {
			return 0, &UnseenError{s.spec.Address, "the service has asked for timestamps, which take away those that tell when the last datagram came"}
		}
	}
	var stamp unix.Timespec
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGSTAMPNS, uintptr(unsafe.Pointer(&stamp)))
	switch errno {
	case 0:
		return uint64(stamp.Nano()), nil
	case unix.ENOENT: // none yet
		return 0, nil
	}
	return 0, os.NewSyscallError("ioctl(SIOCGSTAMPNS)", errno)
}
