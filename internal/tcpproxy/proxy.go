package tcpproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/budget"
	"activator/internal/kernel/fd"
)

// ErrClosed is the error of a proxy that was closed.
var ErrClosed = errors.New("proxy is closed")

// errLeaving is the error of a client that was accepted just before the end.
var errLeaving = errors.New("the program is gone")

// Pending holds the clients that were accepted and had no backend when Run ended. No program
// has had any of their data. Its methods may be called from any goroutine.
type Pending interface {
	// Put takes fd, and said, the bytes that were read from it already.
	Put(fd int, said []byte)
	// Take returns a client that was put; without ok there is none.
	Take() (fd int, said []byte, ok bool)
}

// Dialer makes the connections to the program.
type Dialer interface {
	// Dial returns a stream socket, non-blocking and close-on-exec, that is connected
	// to the program or is connecting; the proxy closes it. An internet socket has been
	// through [PrepareSocket]. All sockets of one dialer are internet sockets, or none is. Dial is
	// called from the loop of [Proxy.Run] and must not block. client is valid until it returns.
	//
	// With EMFILE, ENFILE, ENOMEM, ENOBUFS and EAGAIN (a unix socket's queue is full), and
	// with [Route].Pending for a socket that turns out to be refused, it is called again
	// later, and no other client is accepted until then. With any other error the client is
	// turned away.
	Dial(client *Client) (fd int, err error)
}

// PrepareSocket sets the options of a TCP socket to the program: TCP_NODELAY, SO_OOBINLINE,
// and no TCP_QUICKACK until something is sent or the proxy sets it. So the last segment of the
// handshake is the first with data. tcp(7) It is called before the socket connects, or long
// before where sockets are made in advance.
func PrepareSocket(fd int) error {
	for _, o := range [...]struct {
		level, name int
		value       int32
	}{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_OOBINLINE, 1},
		{unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0},
	} {
		if e := setOption(int32(fd), o.level, o.name, o.value); e != 0 {
			return stepError("setsockopt", e)
		}
	}
	return nil
}

// Route is where clients come from and where they go.
type Route struct {
	Listener *os.File // listening stream socket
	Dialer   Dialer
	Pending  Pending // its clients are served first; it gets those that are left; nil: they are turned away
}

// Options of a proxy; zero is good.
type Options struct {
	MaxConns int           // at most so many clients at once, the others wait in the listener's queue; 0: no limit
	Idle     time.Duration // a connection on which nothing moved for so long is closed; 0: never
	Drain    time.Duration // how long connections may go on after Run's context ends; 0: not at all
	Protocol string        // header to the program: "" none, "v1" or "v2" of the PROXY protocol
	Log      *slog.Logger  // nil: slog.Default()
}

// Proxy carries connections from its routes' listeners to their dialers.
type Proxy struct {
	options Options
	routes  []*route
	epoll   int32
	wake    int32 // eventfd: look at leave, quit and given
	share   budget.Share

	life   sync.Mutex  // held by Run
	quit   atomic.Bool // Close was called
	leave  atomic.Bool // Run's context has ended
	given  atomic.Bool // there is room in share again
	wakeMu sync.Mutex  // guards wake against Close
	closed bool

	loop // Run's
}

// New returns a proxy for routes. It borrows their listeners, through duplicates of
// its own, until Close: it shares their open file descriptions, on which it sets
// O_NONBLOCK and, for accepted sockets to inherit, TCP_NODELAY and SO_OOBINLINE.
// Close sets them back.
func New(routes []Route, o Options) (*Proxy, error) {
	if err := checkProtocol(o.Protocol); err != nil {
		return nil, err
	}
	if len(routes) == 0 {
		return nil, errors.New("a proxy without a listener")
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	p := &Proxy{options: o, epoll: -1, wake: -1}
	if err := p.openDescriptors(routes); err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

func (p *Proxy) openDescriptors(routes []Route) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	p.epoll = int32(fd)
	if fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	p.wake = int32(fd)
	if e := epollControl(p.epoll, unix.EPOLL_CTL_ADD, p.wake, unix.EPOLLIN, wakeSlot, 0); e != 0 {
		return stepError("epoll_ctl", e)
	}
	for i, x := range routes {
		r, err := borrowListener(x, int32(i))
		if err != nil {
			return fmt.Errorf("listener %s: %w", x.Listener.Name(), err)
		}
		p.routes = append(p.routes, r)
	}
	return nil
}

// Run carries until ctx ends, which is no error, or Close is called. When ctx ends, no client
// is accepted any more, and connections have Options.Drain to end. The rest is closed; a client
// whose answer is cut off gets a reset. Run returns an error if a listener is none any more. It
// may be called again.
func (p *Proxy) Run(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	if p.quit.Load() {
		return ErrClosed
	}
	p.leave.Store(false)
	defer fd.AfterFunc(ctx, func() {
		p.leave.Store(true)
		p.wakeLoop()
	})()
	return p.runLoop()
}

// Close ends Run at once, waits for it, and gives the listeners back. It may be called twice.
func (p *Proxy) Close() error {
	p.quit.Store(true)
	p.wakeLoop()
	p.life.Lock()
	defer p.life.Unlock()
	p.share.Close() // before wakeMu: it calls the functions that wait
	p.wakeMu.Lock()
	defer p.wakeMu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	for _, r := range p.routes {
		r.giveBack()
	}
	for _, fd := range []int32{p.epoll, p.wake} {
		if fd >= 0 {
			closeFD(fd)
		}
	}
	return nil
}

// wakeLoop makes the loop look at leave, quit and given. eventfd(2)
func (p *Proxy) wakeLoop() {
	p.wakeMu.Lock()
	defer p.wakeMu.Unlock()
	if !p.closed && p.wake >= 0 {
		_, _ = unix.Write(int(p.wake), []byte{0, 0, 0, 0, 0, 0, 0, 1}) // any number but 0
	}
}
