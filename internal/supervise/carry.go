package supervise

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

	"activator/internal/inside"
	"activator/internal/listen"
	"activator/internal/proxy"
	"activator/internal/spawn"
)

// Carrying is for a program that listens in its own network: we accept, and carry
// the connections to it. It is up when it listens at every target.
type Carrying struct {
	Targets  []listen.Address // what the program listens at, one for each socket; nil: it inherits the sockets
	Protocol string           // "v1", "v2": it is told the client's address by the PROXY protocol; "": by the socket's own
	MaxConns int              // at once; 0: no limit
	Idle     time.Duration    // a connection on which nothing moves is closed; 0: never
}

// carrier carries the connections of one run of the program. Its methods may be
// called from any goroutine, and of nil.
type carrier struct {
	child   *spawn.Process
	room    *inside.Room
	ctx     context.Context // until nobody is to be accepted any more
	leaving context.CancelFunc
	cut     context.CancelFunc // ends it at once
	over    context.Context
	done    chan struct{}          // nil: it does not run
	ready   chan struct{}          // closed when the service is up
	awaited atomic.Pointer[string] // the target that it does not listen at yet
	retired atomic.Pointer[func()] // what is to be done when the last client has left
}

// lastWords is how long clients may still take, after the program's end, what it
// had said to them. Meanwhile there is no next run.
const lastWords = time.Second

// newCarrier makes the carrier of a process that has not exec'ed the program yet; nil
// where nothing is to be carried.
func (s *Service) newCarrier(child *spawn.Process) (*carrier, error) {
	if s.spec.Carrying.Targets == nil {
		return nil, nil
	}
	room, err := inside.Open(child.Pid())
	if err != nil {
		return nil, err
	}
	if err := room.LowPorts(); err != nil {
		level := slog.LevelDebug
		if slices.ContainsFunc(s.spec.Carrying.Targets, func(a listen.Address) bool { return a.TCP() && a.Port < 1024 }) {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, "ports below 1024 are the program's to bind only with capabilities = [\"net_bind_service\"]", "err", err)
	}
	c := &carrier{child: child, room: room, ready: make(chan struct{})}
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

// retire says that nobody is to be accepted any more, and calls f when the last
// client has left: who comes in between waits in the queue, and is not cut off.
func (c *carrier) retire(f func()) {
	c.retired.Store(&f)
	c.leaving()
}

// end ends it, after the program.
func (c *carrier) end() {
	if c == nil {
		return
	}
	c.leaving()
	if c.done != nil {
		select {
		case <-c.done:
		case <-time.After(lastWords):
		}
		c.cut()
		<-c.done
	}
	c.cut()
	c.room.Close()
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
func (s *Service) carry(c *carrier, p *process, files []*os.File) {
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
func (s *Service) carryAll(c *carrier, p *process, files []*os.File) error {
	spec := s.spec.Carrying
	routes := make([]proxy.Route, len(files))
	for i, target := range spec.Targets {
		door := c.room.Door(within(target), inside.Options{Prepare: proxy.Prepare, OwnAddress: spec.Protocol == ""})
		defer door.Close()
		routes[i] = proxy.Route{Listener: files[i], Dialer: &dialer{door: door, service: s, child: c.child}}
		name := target.String()
		c.awaited.Store(&name)
		if there, err := awaitListening(c.ctx, door); err != nil || !there {
			return err
		}
	}
	c.awaited.Store(nil)
	carrying, err := proxy.New(routes, proxy.Options{MaxConns: spec.MaxConns, Idle: spec.Idle, Protocol: spec.Protocol,
		Drain: s.drain(), Log: s.log})
	if err != nil {
		return err
	}
	defer carrying.Close()
	defer context.AfterFunc(c.over, func() { _ = carrying.Close() })()
	if !s.spec.Process.Notify {
		s.tell(report{of: p, serving: true})
	}
	select {
	case <-c.ready:
	case <-c.ctx.Done():
		return nil
	}
	if err := carrying.Run(c.ctx); err != nil && !errors.Is(err, proxy.ErrClosed) {
		return err
	}
	if f := c.retired.Load(); f != nil {
		(*f)()
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
func awaitListening(ctx context.Context, door *inside.Door) (bool, error) {
	for pause := leastLook; ; pause = min(pause+pause/4, mostLook) {
		if there, err := door.Look(); there || err != nil {
			return there, err
		}
		select {
		case <-ctx.Done():
			return false, nil
		case <-time.After(pause):
		}
	}
}

// within translates a target.
func within(a listen.Address) inside.Address {
	return inside.Address{Port: uint16(a.Port), IP: a.IP, Path: a.Path,
		Four: a.Network != listen.TCP6, Six: a.Network != listen.TCP4}
}

// dialer connects clients to the program.
type dialer struct {
	door    *inside.Door
	service *Service
	child   *spawn.Process
	refused time.Time // since when it does not listen
}

// Dial implements [proxy.Dialer]. A program that does not listen, any more or for a
// moment, makes its next client wait, and nobody else is accepted then. Mostly it is
// about to end. One that lives on and has listened to nobody for as long as a client
// may wait is killed.
func (d *dialer) Dial(client *proxy.Client) (int, error) {
	fd, err := d.door.Dial(client.Addr())
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT) {
		d.refused = time.Time{}
		return fd, err
	}
	if d.refused.IsZero() {
		d.refused = time.Now()
	}
	if hold := d.service.spec.Hold; hold > 0 && time.Since(d.refused) > hold {
		d.service.log.Error("service killed: it does not listen any more", "pid", d.child.Pid(), "hold", hold)
		d.refused = time.Now()
		d.child.Kill()
	}
	return -1, errDeaf
}

var errDeaf = fmt.Errorf("it does not listen: %w", syscall.EAGAIN)
