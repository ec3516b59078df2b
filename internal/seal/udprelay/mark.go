package udprelay

import (
	"bytes"
	"math/rand/v2"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// A service may send to its own relay socket, also with the address of somebody else (IP_PKTINFO): the next
// instance would read it. So a relay socket of the internet takes only what bears the mark of its flow
// sockets, SO_MARK of socket(7), which only a process of our user namespace has the right to set. A
// container of root's may be, and does not know the mark.
//
// Unix datagrams have no mark. Their sender cannot be another one than says, and no client has the name of
// the relay socket: so what a service has sent itself is found in the queue when it has ended.
type mark uint32

// newMark returns one that is not 0, which all others have.
func newMark() mark { return mark(rand.Uint32() | 1) }

// setOn has sockets mark what they send: those of the internet, by their domains, or by the only one.
func (m mark) setOn(flows []int, domains ...int) error {
	for i, flow := range flows {
		if domains[min(i, len(domains)-1)] == unix.AF_UNIX {
			continue
		}
		if err := unix.SetsockoptInt(flow, unix.SOL_SOCKET, unix.SO_MARK, int(m)); err != nil {
			return os.NewSyscallError("setsockopt SO_MARK", err)
		}
	}
	return nil
}

// admitAlone has a relay socket drop what does not bear the mark, for good.
func (m mark) admitAlone(socket int) error {
	const loadMark, all = 1<<32 - 1<<12 + 20, 1<<32 - 1 // SKF_AD_OFF + SKF_AD_MARK of linux/filter.h
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: loadMark},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(m), Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	err := unix.SetsockoptSockFprog(socket, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]})
	if err != nil {
		return os.NewSyscallError("setsockopt SO_ATTACH_FILTER", err)
	}
	return os.NewSyscallError("setsockopt SO_LOCK_FILTER", unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
}

// isOwn reports whether the sender of a unix datagram is the relay socket itself. A path leads nowhere
// inside, so that one cannot be sent to.
func (s *relaySocket) isOwn(sender *sockaddr.Raw) bool {
	return sender.Family() == unix.AF_UNIX && sender.N > sockaddr.PathAt && bytes.Equal(sender.Bytes(), s.name.Bytes())
}

// Refilled reports whether there is something in the relay socket's queue that the service has sent to
// it itself, and the next instance would read. It takes nothing off. Only while no process has the socket,
// and not while another goroutine calls Close.
func (s *SocketRelay) Refilled() bool {
	if s.family != unix.AF_UNIX {
		return false // it takes nothing of the kind
	}
	fd := s.socket.fd
	defer func() { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, -1) }()
	for at, n, again := 0, 0, false; n < mostInner; n++ {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF, at) != nil {
			return true // then it is read by us, and only what is not its own comes back
		}
		var name sockaddr.Raw
		var one [1]byte
		iov := [1]unix.Iovec{newIovec(one[:])}
		h := newHeader(iov[:], name.B[:], nil)
		size, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT)
		if e == unix.EAGAIN && at == 0 && isReadable(fd) && !again {
			again = true // a client's has come this very moment; one without a byte is passed over once more
			continue
		}
		if e != 0 {
			return e != unix.EAGAIN || at == 0 && isReadable(fd)
		}
		// One without a byte is passed over by the next look, whoever has peeked at it: so it is read out.
		if name.N = h.Namelen; size == 0 || s.socket.isOwn(&name) {
			return true
		}
		at += int(size)
	}
	return true
}
