package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"activator/internal/netns"
	"activator/internal/process"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
	"activator/internal/tcpproxy"
)

// carrier carries the connections of one run of the program. Its methods may be
// called from any goroutine, and of nil.
type carrier struct {
	child   *process.Process
	program *netns.Program
	ctx     context.Context // until nobody is to be accepted any more
	leaving context.CancelFunc
	cut     context.CancelFunc // ends it at once
	over    context.Context
	exited  context.Context // until the program has ended
	exit    context.CancelFunc
	done    chan struct{}          // nil: it does not run
	ready   chan struct{}          // closed when the service is up
	awaited atomic.Pointer[string] // the target that it does not listen at yet
	retired atomic.Pointer[retirement]

	datagrams []*datagrams                         // of the goroutine
	traffic   []atomic.Pointer[udprelay.Datagrams] // for each socket; nil: of a stream, or not carried yet
}

// lastWords is how long clients may still take, after the program's end, what it
// had said to them. Meanwhile there is no next run.
const lastWords = time.Second

// newCarrier makes the carrier of a process that has not exec'ed the program yet; nil
// where nothing is to be carried.
func (s *Service) newCarrier(child *process.Process) (*carrier, error) {
	if s.spec.Handover != spec.Proxy {
		return nil, nil
	}
	program, err := netns.Open(child.Pid())
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(s.spec.Sockets, func(to spec.Socket) bool { return to.Target.Unix() }) {
		if err := program.Identify(child.Pid()); err != nil {
			program.Close()
			return nil, err
		}
	}
	if err := program.LowPorts(); err != nil {
		level := slog.LevelDebug
		if slices.ContainsFunc(s.spec.Sockets, func(to spec.Socket) bool { return to.Target.Internet() && to.Target.Port < 1024 }) {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, "ports below 1024 are the program's to bind only with capabilities = [\"net_bind_service\"]", "err", err)
	}
	if err := program.NoCongestion(); err != nil {
		s.log.Debug("the program's connections may be slower than they could be", "err", err)
	}
	c := &carrier{child: child, program: program, ready: make(chan struct{}), traffic: make([]atomic.Pointer[udprelay.Datagrams], len(s.spec.Sockets))}
	c.exited, c.exit = context.WithCancel(context.Background())
	c.over, c.cut = context.WithCancel(context.Background())
	c.ctx, c.leaving = context.WithCancel(c.over)
	return c, nil
}

// up says that the service is up. It is called once.
func (c *carrier) up() {
	if c != nil {
		close(c.ready)
	}
}

// leave says that nobody is to be accepted any more.
func (c *carrier) leave() {
	if c != nil {
		c.leaving()
	}
}

// retirement is the end of a service that nobody uses.
type retirement struct {
	end   func()        // what is to be done when the last client has left
	seen  []uint64      // what each of the sockets had carried when nobody was there
	quiet time.Duration // who has been carried since is answered by a program that is quiet for so long
}

// retire says that nobody is to be accepted any more, and has r.end called when the last
// client has left: who comes in between waits in the queue, and is not cut off.
func (c *carrier) retire(r retirement) {
	c.retired.Store(&r)
	c.leaving()
}

// end ends it, after the program.
func (c *carrier) end() {
	if c == nil {
		return
	}
	c.leaving()
	c.exit()
	if c.done != nil {
		select {
		case <-c.done:
		case <-time.After(lastWords):
		}
		c.cut()
		<-c.done
	}
	c.cut()
	c.program.Close()
}

// missing is what the program has not done yet.
func (c *carrier) missing() string {
	if c == nil {
		return ""
	}
	if target := c.awaited.Load(); target != nil {
		return "the program does not listen at " + *target
	}
	return ""
}

// carry starts c's goroutine, which ends with c.end. Without it the program is of no
// use.
func (s *Service) carry(c *carrier, p *instance, files []*os.File) {
	if c == nil {
		return
	}
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		if err := s.carryAll(c, p, files); err != nil {
			s.log.Error("connections not carried: the service is killed", "pid", c.child.Pid(), "err", err)
			c.child.Kill()
		}
	}()
}

// carryAll waits until the program listens, and with notify until it has said that it is
// ready: many listen before that, and turn away who comes too early. Then it carries.
func (s *Service) carryAll(c *carrier, p *instance, files []*os.File) error {
	bounds := make([]*netns.Bound, len(files))
	var routes []tcpproxy.Route
	defer func() {
		for _, b := range bounds {
			if b != nil {
				b.Close()
			}
		}
	}()
	for i, socket := range s.spec.Sockets {
		target := socket.Target
		name := target.String()
		c.awaited.Store(&name)
		var there bool
		var err error
		if target.UDP() {
			bounds[i], err = c.await(target)
			there = bounds[i] != nil
		} else {
			reach := c.program.Target(target, netns.Options{Prepare: tcpproxy.Prepare, OwnAddress: s.spec.ProxyProtocol == ""})
			defer reach.Close()
			routes = append(routes, tcpproxy.Route{Listener: files[i], Pending: s.sockets[i].Aside(),
				Dialer: &dialer{target: reach, backend: backend{service: s, child: c.child}}})
			there, err = awaitListening(c.ctx, reach)
		}
		if err != nil || !there {
			return err
		}
	}
	c.awaited.Store(nil)
	if !s.spec.Notify {
		s.tell(report{of: p, serving: true})
	}
	select {
	case <-c.ready:
	case <-c.ctx.Done():
		return nil
	}
	for i, bound := range bounds {
		if bound != nil {
			if err := s.openDatagrams(c, i, files[i], bound); err != nil {
				for _, d := range c.datagrams {
					d.end()
				}
				return err
			}
		}
	}
	return s.carryOn(c, routes)
}

// carryOn carries what comes to a program that listens.
func (s *Service) carryOn(c *carrier, routes []tcpproxy.Route) error {
	delivered := s.deliver(c)
	err := s.carryStreams(c, routes)
	if err != nil {
		c.exit()
		return errors.Join(err, delivered())
	}
	c.emptied()
	if r := c.retired.Load(); r != nil {
		c.answered(*r)
		r.end()
	}
	return delivered()
}

// carryStreams carries until nobody is to be accepted, and the last one has left.
func (s *Service) carryStreams(c *carrier, routes []tcpproxy.Route) error {
	if len(routes) == 0 {
		<-c.ctx.Done()
		return nil
	}
	carrying, err := tcpproxy.New(routes, tcpproxy.Options{MaxConns: s.spec.MaxConns, Idle: s.spec.ConnTimeout, Protocol: s.spec.ProxyProtocol,
		Drain: s.drain(), Log: s.log})
	if err != nil {
		return err
	}
	defer carrying.Close()
	defer context.AfterFunc(c.over, func() { _ = carrying.Close() })()
	if err := carrying.Run(c.ctx); err != nil && !errors.Is(err, tcpproxy.ErrClosed) {
		return err
	}
	return nil
}

// drain is how long connections go on when nobody is accepted any more: until the
// program has ended, in its time.
func (s *Service) drain() time.Duration {
	if s.spec.StopTimeout == 0 {
		return math.MaxInt64 / 2
	}
	return s.spec.StopTimeout + lastWords
}

// How often we look whether the program listens: only while it starts.
const (
	leastLook = time.Millisecond
	mostLook  = 10 * time.Millisecond
)

// awaitListening is false when ctx is done first.
func awaitListening(ctx context.Context, at interface{ Look() (bool, error) }) (bool, error) {
	for pause := leastLook; ; pause = min(pause+pause/4, mostLook) {
		if there, err := at.Look(); there || err != nil {
			return there, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(pause):
		}
	}
}

// dialer connects clients to the program.
type dialer struct {
	target  *netns.Target
	backend backend
	told    bool // the log knows that the target leads elsewhere
}

// backend is a program that may have stopped listening. One that lives on, and has not
// listened for as long as a client may wait while there was one, is killed.
type backend struct {
	service *Service
	child   *process.Process
	silent  time.Time // since when it has not listened; zero: it listens
}

func (b *backend) noteListening(listens bool) {
	if listens {
		b.silent = time.Time{}
		return
	}
	if b.silent.IsZero() {
		b.silent = time.Now()
	}
	if hold := b.service.spec.Hold; hold > 0 && time.Since(b.silent) > hold {
		b.service.log.Error("service killed: it does not listen any more", "pid", b.child.Pid(), "hold", hold)
		b.silent = time.Now()
		b.child.Kill()
	}
}

// Dial implements [tcpproxy.Dialer]. A program that does not listen, any more or for a
// moment, makes its next client wait, and no other client is accepted then. Mostly it is
// about to end.
func (d *dialer) Dial(client *tcpproxy.Client) (int, error) {
	fd, err := d.target.Dial(client.Addr())
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
		d.backend.noteListening(true)
		return fd, err
	}
	if errors.Is(err, netns.ErrForeign) && !d.told {
		d.told = true
		d.backend.service.log.Warn("nobody is connected: the target leads to a socket that is not the program's", "pid", d.backend.child.Pid(), "err", err)
	}
	d.backend.noteListening(false)
	return -1, errNotListening
}

var errNotListening = fmt.Errorf("it does not listen: %w", syscall.EAGAIN)
