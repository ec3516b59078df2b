package udprelay

import (
	"encoding/binary"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Unix datagrams go one by one: their queues are short (net.unix.max_dgram_qlen),
// and they have no longest length. Their sender waits where a queue is full, so
// that nothing is lost on the way; we wait for him.

// gram is what is on its way.
type gram struct {
	key     []byte  // of a client, see key
	in, out []byte  // buffers
	held    []byte  // of in: it has found no room inside; nil: none
	to      *flow   // of held
	stuck   []*flow // with an answer that has found no room
}

// usual is the buffer that is kept, in bytes.
const usual = 256 << 10

// turns is how many datagrams go one way before it is the other one's turn.
const turns = 32

func (d *relay) inboundUnix() error {
	d.inStall.until = 0
	for range turns {
		if d.gram.held == nil {
			if more, err := d.fetch(); !more || err != nil {
				return err
			}
		}
		if d.gram.held != nil && !d.push() {
			return nil
		}
	}
	return nil
}

// fetch takes a datagram off the host's queue, or what was taken before; false: there is
// none. One whose client cannot have a flow is dropped.
func (d *relay) fetch() (bool, error) {
	one, err := d.takeUnix()
	switch {
	case err == unix.EAGAIN:
		d.hostReady = false
		return false, nil
	case err == unix.ENOMEM || err == unix.ENOBUFS:
		d.inStall.begin(d.now)
		return false, nil
	case err != nil:
		return false, &stepError{"recvmsg", err}
	}
	who := one.sender
	f := d.byClient[string(d.key(&one.name, &who))]
	if f == nil {
		if f, err = d.openUnix(&one.name, who); err != nil {
			d.refuse(err)
			return true, nil
		}
	} else if !f.reached && f.sender.pid != who.pid {
		f.sender = who
		d.reach(f)
	}
	d.touch(f, d.now, d.grain())
	d.gram.held, d.gram.to = one.data, f
	return true, nil
}

// takeUnix takes one; its data may be in the buffer.
func (d *relay) takeUnix() (one datagram, err error) {
	if len(d.first) > 0 {
		one, d.first = d.first[0], d.first[1:]
		return one, nil
	}
	var ctl [senderSpace]byte
	text, n, err := readUnix(d.host, &d.gram.in, &one.name, ctl[:])
	one.sender, one.data = senderOf(ctl[:n]), text
	return one, err
}

// announced is how long to wait for an event that comes.
const announced = time.Second

// push sends what is held; false: the inner queue is full. Then the flow becomes
// writable when the service has read, see unix_dgram_poll.
func (d *relay) push() bool {
	f := d.gram.to
	err := sendUnix(f.fd, d.gram.held, nil, nil)
	if err == unix.ECONNRESET { // the service was connected to this one: said once
		err = sendUnix(f.fd, d.gram.held, nil, nil)
	}
	switch {
	case err == unix.EAGAIN:
		d.inStall.until = d.now + announced
		return false
	case err == unix.ENOBUFS || err == unix.ENOMEM:
		d.inStall.begin(d.now)
		return false
	}
	if err != nil { // the service cannot have this one
		d.lose(1, lostInside, err)
	}
	d.gram.held, d.gram.to = nil, nil
	d.inStall.delay = 0
	if cap(d.gram.in) > usual {
		d.gram.in = nil
	}
	return true
}

// readUnix reads a datagram of any length. It looks at the length first: what a
// buffer has no room for would be lost.
func readUnix(fd int, buffer *[]byte, name *rawAddr, ctl []byte) (text []byte, ctlN int, err error) {
	n, err := peekLength(fd)
	if err != nil {
		return nil, 0, err
	}
	if n >= len(*buffer) {
		*buffer = make([]byte, max(n+1, usual))
	}
	var h unix.Msghdr
	iov := unix.Iovec{Base: &(*buffer)[0]}
	iov.SetLen(len(*buffer))
	h.Iov = &iov
	h.SetIovlen(1)
	if name != nil {
		h.Name, h.Namelen = &name.b[0], uint32(len(name.b))
	}
	if len(ctl) > 0 {
		h.Control = &ctl[0]
		h.SetControllen(len(ctl))
	}
	r, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if e != 0 {
		return nil, 0, e
	}
	if name != nil {
		name.n = h.Namelen
	}
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

// sendUnix sends one, to where socket is connected with to nil; creds is a control
// message or nil.
func sendUnix(socket int, text []byte, to *rawAddr, creds []byte) error {
	var h unix.Msghdr
	var iov unix.Iovec
	if len(text) > 0 {
		iov.Base = &text[0]
		iov.SetLen(len(text))
	}
	h.Iov = &iov
	h.SetIovlen(1)
	if to != nil {
		h.Name, h.Namelen = &to.b[0], to.n
	}
	if len(creds) > 0 {
		h.Control = &creds[0]
		h.SetControllen(len(creds))
	}
	send := func() error {
		_, _, e := unix.RawSyscall(unix.SYS_SENDMSG, uintptr(socket), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return errnoOrNil(e)
	}
	err := fd.RetryEINTR(send)
	for err == unix.EMSGSIZE && roomy(socket, len(text)) {
		err = fd.RetryEINTR(send)
	}
	return err
}

// roomy makes the send buffer large enough for n bytes; false: it is, or cannot
// be. The sender's was: what he may, we may.
func roomy(fd, n int) bool {
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

// credentialsOf is SCM_CREDENTIALS for answers: the bytes are the service's, and
// nobody is to take them for root's. An ordinary user is who the service is, too.
func credentialsOf(uid, gid int) ([]byte, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	b := appendControl(nil, unix.SOL_SOCKET, unix.SCM_CREDENTIALS, unix.SizeofUcred)
	for i, n := range []int{os.Getpid(), uid, gid} {
		binary.NativeEndian.PutUint32(b[unix.CmsgLen(0)+4*i:], uint32(n))
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer closeAll(pair[:])
	if err := sendUnix(pair[0], nil, nil, b); err != nil {
		return nil, fmt.Errorf("answers as user %d: %w: root needs CAP_SETUID and CAP_SETGID for it", uid, err)
	}
	return b, nil
}

// openUnix makes the flow of a new client. An abstract name is the same inside; a
// path becomes the abstract name of the same text, so that the service, which does
// not see the host's paths, can answer; all that have no name share a flow.
func (d *relay) openUnix(client *rawAddr, who sender) (*flow, error) {
	if !d.hasRoom() {
		return nil, errFull
	}
	fd, err := d.take(unix.AF_UNIX)
	if err != nil {
		return nil, err
	}
	f := &flow{fd: fd, client: *client, key: string(d.key(client, &who)), last: d.now, sender: who, node: -1}
	text, abstract := client.path()
	if abstract || len(text) > 0 {
		err = d.bindName(f, text)
	}
	if err == nil {
		err = connect(fd, &d.target)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, &stepError{"flow of " + client.String(), err}
	}
	d.table.add(f)
	d.share.Take(1)
	if err := d.watch(fd, f.slot, f.generation, unix.EPOLLIN|unix.EPOLLOUT); err != nil {
		d.drop(f)
		return nil, err
	}
	d.reach(f)
	return f, nil
}

// bindName binds an abstract name, or any where this one is too long or taken: by a
// client that is still there.
func (d *relay) bindName(f *flow, text []byte) error {
	a, ok := unixAddr(text, true, false)
	err := error(unix.EADDRINUSE)
	if ok {
		if err = bind(f.fd, &a); err == unix.EADDRINUSE && d.dropGone(f) {
			err = bind(f.fd, &a)
		}
	}
	if err == unix.EADDRINUSE {
		a, _ = unixAddr(nil, false, true)
		err = bind(f.fd, &a)
	}
	return err
}

// dropGone drops the flow of a process that has had f's name and is gone.
func (d *relay) dropGone(f *flow) bool {
	for _, old := range d.byClient {
		if old.client == f.client {
			if unix.Kill(old.sender.pid, 0) != unix.ESRCH {
				return false
			}
			d.drop(old)
			return true
		}
	}
	return false
}

// outboundUnix carries answers; a client that does not read holds up only his
// own, as without a relay: his flow's queue fills, and the service waits.
func (d *relay) outboundUnix() error {
	if d.outStall.until != 0 && d.outStall.over(d.now) {
		d.outStall.until = 0
		d.retryStuck()
	}
	for range turns {
		if len(d.ready) == 0 {
			return nil
		}
		f := d.ready[0]
		if f.held != nil {
			d.rest(false) // goes on when that one is gone
			continue
		}
		text, _, err := readUnix(f.fd, &d.gram.out, nil, nil)
		if err != nil {
			d.rest(err != unix.EAGAIN)
			continue
		}
		d.touch(f, d.now, d.grain())
		d.deliver(f, text)
	}
	return nil
}

// deliver sends an answer, or holds it where the client has no room.
func (d *relay) deliver(f *flow, text []byte) {
	if !f.reached {
		d.lose(1, lostUnreached, nil)
		return
	}
	err := d.sendTo(f, text)
	if err == unix.ECONNREFUSED && f.node >= 0 {
		// The client may have bound its path anew.
		d.forgetNode(f)
		if d.reach(f); f.reached {
			err = d.sendTo(f, text)
		}
	}
	if err == unix.EAGAIN || err == unix.ENOBUFS || err == unix.ENOMEM {
		f.held = append(make([]byte, 0, len(text)+1), text...)
		d.gram.stuck = append(d.gram.stuck, f)
		if d.outStall.until == 0 {
			d.outStall.begin(d.now)
		}
	} else if err != nil {
		d.lose(1, lostOutside, err)
	}
}

// sendTo sends an answer to the client of f.
func (d *relay) sendTo(f *flow, text []byte) error {
	to := f.answerTo()
	return sendUnix(d.host, text, &to, d.creds)
}

// answerTo is where a unix client is answered.
func (f *flow) answerTo() rawAddr {
	if f.node < 0 {
		return f.client
	}
	to, _ := unixAddr(fmt.Appendf(nil, "/proc/self/fd/%d", f.node), false, false)
	return to
}

func (d *relay) forgetNode(f *flow) {
	f.reached = false
	if f.node >= 0 {
		_ = unix.Close(f.node)
		f.node = -1
		d.share.Give(1)
	}
}

// sayUnanswered tells of a client whom no answer can reach, now and then.
func (d *relay) sayUnanswered(f *flow, err error) {
	if d.options.Log != nil && d.now >= d.unanswered {
		d.options.Log.Warn("a client is not answered", "addr", d.self.String(), "client", f.client.String(), "pid", f.sender.pid, "err", err)
		d.unanswered = d.now + lostEvery
	}
}

// retryStuck tries again what clients had no room for.
func (d *relay) retryStuck() {
	stuck := d.gram.stuck
	d.gram.stuck = nil
	for _, f := range stuck {
		if f.fd < 0 {
			continue // expired
		}
		held := f.held
		f.held = nil
		if d.deliver(f, held); f.held == nil {
			d.outStall.delay = 0
			d.wake(f)
		}
	}
}
