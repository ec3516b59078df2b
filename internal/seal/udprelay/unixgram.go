package udprelay

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
	"activator/internal/netns"
)

// unixRelay carries datagrams between a unix socket of the host and its relay socket.
//
// They go one by one: their queues are short (net.unix.max_dgram_qlen),
// and they have no longest length. Their sender waits where a queue is full, so
// that nothing is lost on the way; we wait for the sender.
type unixRelay struct {
	*relay
	socket *relaySocket
	node   int          // O_PATH descriptor of the relay socket's node; -1: none
	target sockaddr.Raw // what flow sockets connect to
	creds  []byte       // SCM_CREDENTIALS of answers

	key        []byte  // of a client, see keyOf
	in, out    []byte  // buffers
	held       []byte  // of in: it has found no room inside; nil: none
	to         *flow   // of held
	stuck      []*flow // with an answer that has found no room
	stuckStall stall
	sweep      sweep
	unanswered time.Duration // before that the log tells of no other client that is not answered
}

// usualSize is the buffer that is kept, in bytes.
const usualSize = 256 << 10

// turns is how many datagrams go one way before it is the other one's turn.
const turns = 32

// newUnixRelay binds socket, which the carrier takes.
func newUnixRelay(r *relay, socket *relaySocket, owner *netns.Owner) (u *unixRelay, err error) {
	u = &unixRelay{relay: r, socket: socket, node: -1, target: r.self}
	if u.creds, err = makeCredentials(r.options.UID, r.options.GID); err != nil {
		return nil, err
	}
	if path, abstract := r.self.Path(); abstract {
		err = sockaddr.Bind(socket.fd, &r.self)
	} else if u.node, err = owner.BindNode(socket.fd, string(path), r.self.Bytes()); err == nil {
		u.target, _ = sockaddr.Unix([]byte(fd.LinkOf(u.node)), false)
	}
	return u, bindError(&r.self, err)
}

func (u *unixRelay) close() (unread []datagram, err error) {
	unread = u.socket.readAll(&u.flows, u.sentBy)
	if u.held != nil {
		unread = append(unread, datagram{name: u.to.client, sender: u.to.sender, data: bytes.Clone(u.held)})
	}
	if u.node >= 0 {
		_ = unix.Close(u.node)
	}
	return unread, u.socket.file.Close()
}

// sentBy is a datagram of the client of f. Without flow, which has expired, it cannot be
// answered.
func (u *unixRelay) sentBy(_ *sockaddr.Raw, f *flow) datagram {
	if f == nil {
		return datagram{sender: sender{pid: -1, uid: -1, gid: -1}}
	}
	return datagram{name: f.client, sender: f.sender}
}

func (*unixRelay) prepareWait() {}
func (*unixRelay) finishRun()   {}

func (u *unixRelay) keepTime() {
	u.sweepInTime()
	if u.stuckStall.until != 0 && u.stuckStall.isOver(u.now) {
		u.stuckStall.until = 0
		u.retryStuck()
	}
}

func (u *unixRelay) nextTime() time.Duration {
	next := u.stuckStall.until
	if u.isCrowded() && (next == 0 || u.sweep.next < next) {
		next = max(u.sweep.next, 1)
	}
	return next
}

func (u *unixRelay) carryIn() error {
	for range turns {
		if u.held == nil {
			if more, err := u.fetchDatagram(); !more || err != nil {
				return err
			}
		}
		if u.held != nil && !u.pushDatagram() {
			return nil
		}
	}
	return nil
}

// fetchDatagram takes a datagram off the host's queue, or what was taken before; false: there is
// none. One whose client cannot have a flow is dropped.
func (u *unixRelay) fetchDatagram() (bool, error) {
	one, err := u.takeOne()
	if err != nil {
		return false, os.NewSyscallError("recvmsg", u.noteEmpty(err))
	}
	f := u.flows.byClient[string(u.keyOf(&one.name, &one.sender))]
	if f == nil {
		if f, err = u.newFlow(&one.name, one.sender); err != nil {
			u.refuseClient(err)
			return true, nil
		}
	} else if !f.reached && f.sender.pid != one.sender.pid {
		f.sender = one.sender
		u.reachClient(f)
	}
	u.flows.noteQuestion(f, u.now)
	u.held, u.to = one.data, f
	return true, nil
}

// takeOne takes one; its data may be in the buffer.
func (u *unixRelay) takeOne() (one datagram, err error) {
	if len(u.first) > 0 {
		one, u.first = u.first[0], u.first[1:]
		return one, nil
	}
	var ctl [senderSpace]byte
	text, n, err := readUnix(u.host, &u.in, &one.name, ctl[:])
	one.sender, one.data = senderOf(ctl[:n]), text
	return one, err
}

// announced is how long to wait for an event that comes.
const announced = time.Second

// pushDatagram sends what is held; false: the relay socket's queue is full. Then the flow becomes
// writable when the service has read, see unix_dgram_poll.
func (u *unixRelay) pushDatagram() bool {
	err := sendUnix(u.to.fd, u.held, nil, nil)
	if err == unix.ECONNRESET { // the service was connected to this one: said once
		err = sendUnix(u.to.fd, u.held, nil, nil)
	}
	switch {
	case err == unix.EAGAIN:
		u.inStall.until = u.now + announced
		return false
	case noRoom(err):
		u.inStall.begin(u.now)
		return false
	case err != nil: // the service cannot have this one
		u.noteLost(1, lostInside, err)
	}
	u.held, u.to = nil, nil
	u.inStall.delay = 0
	if cap(u.in) > usualSize {
		u.in = nil
	}
	return true
}

// newFlow makes the flow of a new client; all that have no name share one.
func (u *unixRelay) newFlow(client *sockaddr.Raw, from sender) (*flow, error) {
	if u.flows.isFull() {
		u.sweepForRoom()
	}
	f := newFlow(client, u.keyOf(client, &from))
	f.sender = from
	if err := u.openFlow(f, unix.AF_UNIX, u.bindFlow, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
		return nil, err
	}
	u.reachClient(f)
	return f, nil
}

// bindFlow gives a flow socket the client's name. An abstract name is the same inside; a
// path becomes the abstract name of the same text, so that the service, which does
// not see the host's paths, can answer.
func (u *unixRelay) bindFlow(f *flow) error {
	if text, abstract := f.client.Path(); abstract || len(text) > 0 {
		if err := u.bindName(f, text); err != nil {
			return err
		}
	}
	return sockaddr.Connect(f.fd, &u.target)
}

// bindName binds an abstract name, or any where this one is too long or taken: by a
// client that is still there.
func (u *unixRelay) bindName(f *flow, text []byte) error {
	a, ok := sockaddr.Unix(text, true)
	err := error(unix.EADDRINUSE)
	if ok {
		if err = sockaddr.Bind(f.fd, &a); err == unix.EADDRINUSE && u.dropGone(f) {
			err = sockaddr.Bind(f.fd, &a)
		}
	}
	if err == unix.EADDRINUSE {
		a = sockaddr.AnyUnix()
		err = sockaddr.Bind(f.fd, &a)
	}
	return err
}

// dropGone drops the flow of a process that has had f's name and is gone.
func (u *unixRelay) dropGone(f *flow) bool {
	for _, old := range u.flows.byClient {
		if old.client == f.client {
			if unix.Kill(old.sender.pid, 0) != unix.ESRCH {
				return false
			}
			u.dropFlow(old)
			return true
		}
	}
	return false
}

// carryOut carries answers; a client that does not read holds up only its
// own, as without a relay: its flow's queue fills, and the service waits.
func (u *unixRelay) carryOut() error {
	for range turns {
		if len(u.flows.ready) == 0 {
			return nil
		}
		f := u.flows.ready[0]
		if f.held != nil {
			u.flows.firstDone(false) // goes on when that one is gone
			continue
		}
		var source sockaddr.Raw
		text, _, err := readUnix(f.fd, &u.out, &source, nil)
		if err != nil {
			u.flows.firstDone(err != unix.EAGAIN)
			continue
		}
		u.flows.noteAnswer(f, u.now)
		u.deliverAnswer(f, text)
	}
	return nil
}

// deliverAnswer sends an answer, or holds it where the client has no room.
func (u *unixRelay) deliverAnswer(f *flow, text []byte) {
	if !f.reached {
		u.noteLost(1, lostUnreached, nil)
		return
	}
	err := u.sendTo(f, text)
	if err == unix.ECONNREFUSED && f.node >= 0 {
		// The client may have bound its path anew.
		u.flows.closeNode(f)
		if u.reachClient(f); f.reached {
			err = u.sendTo(f, text)
		}
	}
	if noRoom(err) {
		f.held = append(make([]byte, 0, len(text)+1), text...)
		u.stuck = append(u.stuck, f)
		if u.stuckStall.until == 0 {
			u.stuckStall.begin(u.now)
		}
	} else if err != nil {
		u.noteLost(1, lostOutside, err)
	}
}

// sendTo sends an answer to the client of f.
func (u *unixRelay) sendTo(f *flow, text []byte) error {
	to := f.answerTo()
	return sendUnix(u.host, text, to.Bytes(), u.creds)
}

// answerTo is where a unix client is answered.
func (f *flow) answerTo() sockaddr.Raw {
	if f.node < 0 {
		return f.client
	}
	to, _ := sockaddr.Unix([]byte(fd.LinkOf(f.node)), false)
	return to
}

// retryStuck tries again what clients had no room for.
func (u *unixRelay) retryStuck() {
	stuck := u.stuck
	u.stuck = nil
	for _, f := range stuck {
		if f.fd < 0 {
			continue // expired
		}
		held := f.held
		f.held = nil
		if u.deliverAnswer(f, held); f.held == nil {
			u.stuckStall.delay = 0
			u.flows.wakeFlow(f)
		}
	}
}

// sayUnanswered tells of a client that no answer can reach, now and then.
func (u *unixRelay) sayUnanswered(f *flow, err error) {
	if u.now >= u.unanswered {
		u.options.Log.Warn("a client is not answered", "addr", u.self.String(), "client", f.client.String(), "pid", f.sender.pid, "err", err)
		u.unanswered = u.now + lostEvery
	}
}

// readUnix reads a datagram of any length. It looks at the length first: what a
// buffer has no room for would be lost.
func readUnix(fd int, buffer *[]byte, name *sockaddr.Raw, ctl []byte) (text []byte, ctlN int, err error) {
	n, err := peekLength(fd)
	if err != nil {
		return nil, 0, err
	}
	if n >= len(*buffer) {
		*buffer = make([]byte, max(n+1, usualSize))
	}
	iov := [1]unix.Iovec{newIovec(*buffer)}
	h := newHeader(iov[:], name.B[:], ctl)
	r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if e != 0 {
		return nil, 0, e
	}
	name.N = h.Namelen
	return (*buffer)[:r], min(int(h.Controllen), len(ctl)), nil
}

// peekLength returns the length of the first datagram.
func peekLength(socket int) (n int, err error) {
	err = fd.RetryEINTR(func() error {
		r, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(socket), 0, 0, unix.MSG_PEEK|unix.MSG_TRUNC|unix.MSG_DONTWAIT, 0, 0)
		n = int(r)
		return errnoOrNil(e)
	})
	return max(n, 0), err
}

// sendUnix sends one, without to to where socket is connected; creds is a control
// message or nil.
func sendUnix(socket int, text, to, creds []byte) error {
	iov := [1]unix.Iovec{newIovec(text)}
	h := newHeader(iov[:], to, creds)
	send := func() error {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return errnoOrNil(e)
	}
	err := fd.RetryEINTR(send)
	for err == unix.EMSGSIZE && growSendBuffer(socket, len(text)) {
		err = fd.RetryEINTR(send)
	}
	return err
}

// growSendBuffer makes the send buffer large enough for n bytes; false: it is, or cannot
// be. The sender's was: what the sender may, we may.
func growSendBuffer(fd, n int) bool {
	before, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	if err != nil || before > 2*n {
		return false
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*n) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 2*n)
	}
	after, e := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
	return err == nil && e == nil && after > before
}

// makeCredentials is SCM_CREDENTIALS for answers: the bytes are the service's, and
// no client is to take them for root's. An ordinary user's service is that user's, too.
func makeCredentials(uid, gid int) ([]byte, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	b := unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: uint32(uid), Gid: uint32(gid)})
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer closeAll(pair[:])
	err = sendUnix(pair[0], nil, nil, b)
	if uid == nobody && errors.Is(err, unix.EINVAL) {
		return nil, nil // our user namespace has no such id: answers are our own user's, as the service is
	}
	if err != nil {
		return nil, fmt.Errorf("answers as user %d: %w: root needs CAP_SETUID and CAP_SETGID for it", uid, err)
	}
	return b, nil
}
