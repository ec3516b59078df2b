package udprelay

import (
	"bytes"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// udpRelay carries datagrams between a UDP socket of the host and its relay socket.
type udpRelay struct {
	udp
	socket *relaySocket
	drops  uint32 // of the relay socket, at the last look
	sent   bool   // something to it since
	room   int    // its queue may take so much at least: since the last look only the service has changed that
}

// newUDPRelay binds socket, which the carrier takes.
func newUDPRelay(r *relay, socket *relaySocket) (*udpRelay, error) {
	u := &udpRelay{udp: udp{relay: r, chooses: r.wildcard, burst: firstBurst}, socket: socket}
	u.inside = u
	a := r.self
	if r.family == unix.AF_INET6 {
		a = sockaddr.Inet(r.self.IP(), r.self.Port(), sockaddr.Loopback)
	}
	return u, bindError(&r.self, sockaddr.Bind(socket.fd, &a))
}

func (u *udpRelay) carryIn() error {
	if u.in == nil || !u.in.isPending() {
		if more, err := u.takeBatch(); !more || err != nil {
			return err
		}
	}
	room, err := u.forwardBatch(u.room, false)
	u.room = room
	return err
}

// findRoom is how much the relay socket's queue may take, in bytes of its receive buffer. Half
// of it stays free: what is on its way is not counted yet, and a datagram that
// finds it full is lost. An empty queue takes one datagram of any size,
// __udp_enqueue_schedule_skb.
func (u *udpRelay) findRoom() (n int, empty bool, err error) {
	used, buffer, err := u.readMemory()
	return buffer/2 - used, used == 0, err
}

// readMemory asks how full the relay socket's queue is, and what it has dropped since: what was
// sent and finds no room is lost without an error, and so is what the service sends to itself.
func (u *udpRelay) readMemory() (used, buffer int, err error) {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(u.socket.fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, 0, os.NewSyscallError("getsockopt SO_MEMINFO", e)
	}
	dropped := info[unix.SK_MEMINFO_DROPS]
	u.noteLost(int(dropped-u.drops), lostQueue, nil)
	u.drops, u.sent = dropped, false
	return int(info[unix.SK_MEMINFO_RMEM_ALLOC]), int(info[unix.SK_MEMINFO_RCVBUF]), nil
}

func (u *udpRelay) noteSent(*flow, int) { u.sent = true }

func (u *udpRelay) findTarget(*flow) bool { return true }

// bindFlow gives a flow socket the client's own address.
func (u *udpRelay) bindFlow(f *flow) error {
	err := u.bindTo(f, sockaddr.Inet(f.client.IP().Unmap(), f.client.Port(), sockaddr.Loopback))
	if err != nil || u.wildcard {
		return err
	}
	// Saves a look at the routes for each datagram. Answers of a wildcard come
	// from another address.
	f.connected = true
	return sockaddr.Connect(f.fd, &f.inner)
}

// prepareWait also looks whether what was sent last has been dropped, before nothing comes for long. The room
// is found anew then: the service's own buffer may be smaller.
func (u *udpRelay) prepareWait() {
	u.room = 0
	if u.sent {
		_, _, _ = u.readMemory()
	}
	u.finishRun()
}

func (u *udpRelay) finishRun() {
	returnBatch(&u.in)
	returnBatch(&u.out)
}

func (u *udpRelay) close() (unread []datagram, err error) {
	// Several that came as one are told apart by a control message, udp(7).
	_ = unix.SetsockoptInt(u.socket.fd, unix.SOL_UDP, unix.UDP_GRO, 1)
	unread = u.in.appendUnsent(u.socket.readAll(&u.flows, u.sentBy))
	return unread, u.socket.file.Close()
}

// sentBy is a datagram of the client of f. Without flow, which has expired, a client has
// the address that it has inside.
func (u *udpRelay) sentBy(inside *sockaddr.Raw, f *flow) datagram {
	if f == nil {
		return datagram{name: *inside}
	}
	return datagram{name: f.client, ctl: bytes.Clone(f.asked.bytes())}
}
