package handover

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"activator/internal/listen"
	"activator/internal/netns"
	"activator/internal/process"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
	"activator/internal/tcpproxy"
)

// proxy is [Handover] to a program that has no socket of ours: clients are carried to where
// it listens, in a network of its own.
type proxy struct {
	inherit
	program *netns.Program // nil: never attached

	accepting     context.Context // until no client is to be accepted any more
	stopAccepting context.CancelFunc
	living        context.Context // until the program has ended
	die           context.CancelFunc
	carrying      context.Context // until everything is over
	cut           context.CancelFunc

	done    chan struct{}          // closed when nothing is carried any more; nil: nothing ever was
	ready   chan struct{}          // closed when the service is up
	awaited atomic.Pointer[string] // the target that the program does not listen at yet
	retired atomic.Pointer[Retirement]

	datagrams []*datagrams                            // of the goroutine that carries
	traffic   []atomic.Pointer[udprelay.ProgramRelay] // for each socket; nil: of a stream, or not carried yet
}

// lastWords is how long clients may still take, after the program's end, what it
// had said to them. Meanwhile there is no next run.
const lastWords = time.Second

func newProxy(base inherit) *proxy {
	h := &proxy{inherit: base, ready: make(chan struct{}), traffic: make([]atomic.Pointer[udprelay.ProgramRelay], len(base.files))}
	h.living, h.die = context.WithCancel(context.Background())
	h.carrying, h.cut = context.WithCancel(context.Background())
	h.accepting, h.stopAccepting = context.WithCancel(h.carrying)
	return h
}

// Given has the process wait for Go in any case: its network is entered before.
func (h *proxy) Given() process.Inputs {
	given := h.given()
	if given.Client == process.ClientWaiting {
		given.Client = process.ClientExpected
	}
	return given
}

func (h *proxy) Attach(child *process.Process) (err error) {
	h.child = child
	if h.program, err = netns.OpenProgram(child.Pid()); err != nil {
		return err
	}
	has := func(is func(spec.Address) bool) bool {
		return slices.ContainsFunc(h.Spec.Sockets, func(to spec.Socket) bool { return is(to.Target) })
	}
	if has(spec.Address.IsUnix) {
		if err := h.program.ReadIdentity(child.Pid()); err != nil {
			return err
		}
	}
	if err := h.program.AllowLowPorts(); err != nil {
		level := slog.LevelDebug
		if has(func(target spec.Address) bool { return target.IsInternet() && target.Port < 1024 }) {
			level = slog.LevelWarn
		}
		h.Log.Log(context.Background(), level, "ports below 1024 are the program's to bind only with capabilities = [\"net_bind_service\"]", "err", err)
	}
	if err := h.program.UseReno(); err != nil {
		h.Log.Debug("the program's connections may be slower than they could be", "err", err)
	}
	return nil
}

// Serve carries until End. Without that the program is of no use.
func (h *proxy) Serve(serving func()) {
	h.answers = h.answerCalls(h.newPolicy())
	h.done = make(chan struct{})
	go func() {
		defer close(h.done)
		if err := h.carryAll(serving); err != nil {
			h.Log.Error("connections not carried: the service is killed", "pid", h.child.Pid(), "err", err)
			h.child.Kill()
		}
	}()
}

func (h *proxy) Up() { close(h.ready) }

func (h *proxy) Leave() { h.stopAccepting() }

// Retire ends the program when the last client has left: a client that comes in between
// waits in the queue, and is not cut off.
func (h *proxy) Retire(r Retirement) bool {
	h.retired.Store(&r)
	h.stopAccepting()
	return true
}

// Activity is, of a carried socket of UDP, what its clients and the program's answers
// to them have come to.
func (h *proxy) Activity(n int) (listen.Activity, error) {
	if carried := h.traffic[n].Load(); carried != nil {
		return listen.Activity{Mark: carried.Carried()}, nil
	}
	return h.inherit.Activity(n)
}

func (h *proxy) DescribeMissing() string {
	if target := h.awaited.Load(); target != nil {
		return "the program does not listen at " + *target
	}
	return ""
}

func (h *proxy) End() {
	h.stopAccepting()
	h.die()
	if h.done != nil {
		select {
		case <-h.done:
		case <-time.After(lastWords):
		}
		h.cut()
		<-h.done
	}
	h.cut()
	if h.program != nil {
		h.program.Close()
	}
	h.answers.end()
}

// carryAll waits until the program listens, and with notify until it has said that it is
// ready: many listen before that, and turn away a client that comes too early. Then it carries.
func (h *proxy) carryAll(serving func()) error {
	bounds := make([]*netns.Bound, len(h.files))
	var routes []tcpproxy.Route
	defer func() {
		for _, b := range bounds {
			if b != nil {
				b.Close()
			}
		}
	}()
	for i, socket := range h.Spec.Sockets {
		target := socket.Target
		name := target.String()
		h.awaited.Store(&name)
		var there bool
		var err error
		if target.IsUDP() {
			bounds[i], err = h.awaitBound(target)
			there = bounds[i] != nil
		} else {
			reach := h.program.NewTarget(target, netns.Options{Prepare: tcpproxy.PrepareSocket, OwnAddress: h.Spec.ProxyProtocol == ""})
			defer reach.Close()
			routes = append(routes, tcpproxy.Route{Listener: h.files[i], Pending: h.Sockets[i].Pending(),
				Dialer: &dialer{target: reach, backend: backend{of: h}}})
			there, err = awaitListening(h.accepting, reach)
		}
		if err != nil || !there {
			return err
		}
	}
	h.awaited.Store(nil)
	serving()
	select {
	case <-h.ready:
	case <-h.accepting.Done():
		return nil
	}
	for i, bound := range bounds {
		if bound != nil {
			if err := h.openDatagrams(i, bound); err != nil {
				for _, d := range h.datagrams {
					d.closeRelay()
				}
				return err
			}
		}
	}
	return h.carryOn(routes)
}

// carryOn carries to a program that listens.
func (h *proxy) carryOn(routes []tcpproxy.Route) error {
	wait := h.runDatagrams()
	if err := h.runStreams(routes); err != nil {
		h.die()
		return errors.Join(err, wait())
	}
	h.awaitRead()
	if r := h.retired.Load(); r != nil {
		h.awaitAnswers(*r)
		r.Stop()
	}
	return wait()
}

// runStreams carries until no client is to be accepted, and the last one has left.
func (h *proxy) runStreams(routes []tcpproxy.Route) error {
	if len(routes) == 0 {
		<-h.accepting.Done()
		return nil
	}
	streams, err := tcpproxy.New(routes, tcpproxy.Options{MaxConns: h.Spec.MaxConns, Idle: h.Spec.ConnTimeout, Protocol: h.Spec.ProxyProtocol,
		Drain: h.drainTime(), Log: h.Log})
	if err != nil {
		return err
	}
	defer streams.Close()
	defer context.AfterFunc(h.carrying, func() { _ = streams.Close() })()
	if err := streams.Run(h.accepting); err != nil && !errors.Is(err, tcpproxy.ErrClosed) {
		return err
	}
	return nil
}

// drainTime is how long connections go on when no client is accepted any more: until the
// program has ended, in its time.
func (h *proxy) drainTime() time.Duration {
	if h.Spec.StopTimeout == 0 {
		return math.MaxInt64 / 2
	}
	return h.Spec.StopTimeout + lastWords
}
