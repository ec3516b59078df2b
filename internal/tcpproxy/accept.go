package tcpproxy

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/fd"
)

const maxBatch = 32 // clients accepted in one go

const perConn = 2 // descriptors: of the client, and to the program

// route is a listener in the loop.
type route struct {
	dialer   Dialer
	fd       int32 // duplicate
	index    int32
	internet bool // the listener's sockets are TCP
	before   []before
	nonblock bool // as it was

	backend kind // of the dialer's sockets, known after the first
	watched bool // is in the epoll
	batch   int
	round   uint32  // of the last accept
	waiting []*conn // accepted, but there is no backend for them yet
	pending Pending
	client  Client // of the last accept

	again time.Duration // when it is tried again; 0: it is not stalled
	delay time.Duration // the next stall's
	short bool          // it is stalled for want of descriptors or memory
	said  bool          // the log knows
}

// before is an option as it was.
type before struct{ level, name, value int }

type kind int8

const (
	unknown kind = iota
	internet
	local
)

// inherited are the options that accepted sockets get from their listener. Without
// SO_OOBINLINE urgent bytes are taken out of the stream, tcp(7).
var inherited = [...]struct{ level, name int }{
	{unix.IPPROTO_TCP, unix.TCP_NODELAY},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE},
}

func borrowListener(x Route, index int32) (*route, error) {
	dup, err := fd.DupFile(x.Listener)
	if err != nil {
		return nil, err
	}
	r := &route{dialer: x.Dialer, pending: x.Pending, fd: int32(dup), index: index, batch: 1}
	if err := r.prepareListener(); err != nil {
		r.giveBack()
		return nil, err
	}
	return r, nil
}

func (r *route) prepareListener() error {
	if listens, e := readOption(r.fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); e != 0 {
		return stepError("getsockopt", e)
	} else if listens == 0 {
		return errors.New("is not listening")
	}
	flags, err := unix.FcntlInt(uintptr(r.fd), unix.F_GETFL, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	r.nonblock = flags&unix.O_NONBLOCK != 0
	if err := unix.SetNonblock(int(r.fd), true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	r.internet = kindOf(r.fd) == internet
	if !r.internet {
		return nil
	}
	for _, o := range inherited {
		value, e := readOption(r.fd, o.level, o.name)
		if e == 0 {
			e = setOption(r.fd, o.level, o.name, 1)
		}
		if e != 0 {
			return stepError("setsockopt", e)
		}
		r.before = append(r.before, before{o.level, o.name, value})
	}
	return nil
}

func (r *route) giveBack() {
	for _, o := range r.before {
		setOption(r.fd, o.level, o.name, int32(o.value))
	}
	if !r.nonblock {
		_ = unix.SetNonblock(int(r.fd), false)
	}
	closeFD(r.fd)
}

func kindOf(fd int32) kind {
	switch domain, _ := readOption(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); domain {
	case unix.AF_INET, unix.AF_INET6:
		return internet
	}
	return local
}

// isFull reports whether the next client has to wait.
func (p *Proxy) isFull() bool { return p.options.MaxConns > 0 && p.count >= p.options.MaxConns }

// wantsClients reports whether clients of r are to be accepted now.
func (p *Proxy) wantsClients(r *route) bool { return r.again == 0 && !p.leaving && !p.isFull() }

// watchRoute watches r again if clients of r are to be accepted.
func (p *Proxy) watchRoute(r *route) {
	if r.watched || !p.wantsClients(r) {
		return
	}
	if p.takePending(r); !p.wantsClients(r) {
		return
	}
	if e := epollControl(p.epoll, unix.EPOLL_CTL_ADD, r.fd, unix.EPOLLIN, r.index, 0); e != 0 {
		p.err = stepError("epoll_ctl", e)
		return
	}
	r.watched = true
}

// unwatchRoute stops watching r: a listener that is ready and not wanted would keep the loop awake.
func (p *Proxy) unwatchRoute(r *route) {
	if r.watched {
		r.watched = false
		epollControl(p.epoll, unix.EPOLL_CTL_DEL, r.fd, 0, 0, 0)
	}
}

// acceptFrom accepts as many clients as seem to wait. An accept4 without a client is expensive:
// the kernel makes the socket first. So acceptFrom tries for more than one client only after
// rounds without a pause.
func (p *Proxy) acceptFrom(r *route) {
	if p.round != r.round+1 {
		r.batch = 1
	}
	r.round = p.round
	for n := 0; n < r.batch; n++ {
		if !p.wantsClients(r) {
			p.unwatchRoute(r)
			return
		}
		if p.share.Room() < perConn {
			p.stallRoute(r, budget.ErrNone)
			p.share.Await(perConn, p.retryWithRoom)
			return
		}
		fd, e := accept(r.fd, &r.client.peer)
		switch e {
		case 0:
			p.addClient(r, fd)
		case unix.EAGAIN:
			r.batch = 1
			return
		case unix.EBADF, unix.EINVAL, unix.ENOTSOCK:
			p.err = stepError("accept", e)
			return
		case unix.ECONNABORTED, unix.ECONNRESET, unix.ETIMEDOUT, unix.EPROTO, unix.ENOPROTOOPT, unix.EOPNOTSUPP,
			unix.ENETDOWN, unix.ENETUNREACH, unix.EHOSTDOWN, unix.EHOSTUNREACH, unix.ENONET, unix.EINTR:
			// An error of that connection: on to the next. accept(2)
		default:
			p.stallRoute(r, e)
			return
		}
	}
	r.batch = min(r.batch+1, maxBatch)
}

// isShortage reports whether the machine or the process lacks something for now.
func isShortage(err error) bool {
	switch {
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOBUFS):
		return true
	}
	return false
}

// addClient takes fd, a new client.
func (p *Proxy) addClient(r *route, fd int32) {
	r.client.fd = fd
	c := p.newConn(r, fd)
	p.dialBackend(c)
}

// dialBackend connects c, the last client of its route, to its backend.
func (p *Proxy) dialBackend(c *conn) {
	r := c.route
	fd, err := r.dialer.Dial(&r.client)
	switch {
	case err == nil:
		p.endStall(r)
		p.joinBackend(c, int32(fd))
	case isShortage(err), errors.Is(err, unix.EAGAIN):
		p.postponeDial(c, err)
	default:
		p.endStall(r)
		p.refuseClient(c, err)
	}
}

// retryWithRoom makes the loop try again, since descriptors have become free. Any goroutine may
// call it.
func (p *Proxy) retryWithRoom() {
	p.given.Store(true)
	p.wakeLoop()
}

// stallRoute accepts no client of r for a while. A descriptor that we close ends that at once.
// Otherwise a timer does: at first after 100 ms (1 ms where the program's queue is full), at
// last after a second (100 ms).
func (p *Proxy) stallRoute(r *route, err error) {
	p.unwatchRoute(r)
	p.pipes.closeUnused()
	r.short = !errors.Is(err, unix.EAGAIN)
	least, most := time.Millisecond, 100*time.Millisecond
	text := "the program takes nobody for now, clients wait"
	if r.short {
		least, most = 100*time.Millisecond, time.Second
		text = "nobody is accepted for now"
	}
	if r.delay == 0 {
		r.said = p.now >= p.shortage.next
		p.shortage.logLimited(p.now, p.options.Log, text, "err", err)
	}
	r.delay = min(max(2*r.delay, least), most)
	r.again = p.now + r.delay
}

// endStall ends the stall of r: a client has its backend.
func (p *Proxy) endStall(r *route) {
	if r.delay != 0 && r.said {
		p.options.Log.Info("clients are accepted again")
	}
	r.forgetStall()
}

func (r *route) forgetStall() { r.delay, r.again, r.said = 0, 0, false }

// retryRoute ends a stall, or begins the next.
func (p *Proxy) retryRoute(r *route) {
	r.again = 0
	waiting := r.waiting
	r.waiting = nil
	for i, c := range waiting {
		r.setClient(c.fd[client])
		if p.dialBackend(c); r.again != 0 {
			r.waiting = append(r.waiting, waiting[i+1:]...)
			return
		}
	}
	p.watchRoute(r)
}
