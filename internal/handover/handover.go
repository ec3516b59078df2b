// Package handover brings a service's sockets to its program: the program inherits
// them, has them in answer to its own bind(2), or listens in a network of its own,
// where clients are carried to it. A program with one client is given the client's connection.
//
//	run, err := handover.Service{Spec: &spec, Sockets: sockets, Log: log, Tell: tell}.Begin(process.ClientAbsent)
//	child, err := starter.Prepare(ctx, spec.Process, run.Given())
//	err = run.Attach(child)
//	err = run.Go(nil)
//
// It does not start or stop programs, and does not decide when.
package handover

import (
	"fmt"
	"log/slog"
	"os"

	"activator/internal/epoll"
	"activator/internal/listen"
	"activator/internal/process"
	"activator/internal/spec"
)

// Service is what is handed over, and how. Everything in it is lent.
type Service struct {
	Spec    *spec.Service
	Sockets []*listen.Socket
	Log     *slog.Logger
	Tell    func(pid int, f spec.Finding) // what a program was refused, or does in vain
}

// Handover is the way of the sockets to one run of the program. Its methods are here
// in the order of that run's life. Those from Up to Missing may be called at any time after Attach.
type Handover interface {
	// Given is what the process starts with. The files are lent until the next
	// Begin.
	Given() process.Inputs
	// Answer answers the calls of a process that asks before it is the program, see
	// [process.Inputs].Asks. Of all others Serve does. It lends child until End.
	Answer(child *process.Process)
	// Attach takes in the process, which waits for Go unless its client is there. It lends
	// child until End.
	Attach(child *process.Process) error
	// Go says to the process that it may exec the program. It lends client, which a run has
	// that is of one client alone, for the call.
	Go(client *listen.Connection) error
	// NewFastPath is what Go would do, if nothing has to be decided; nil: it has. The
	// caller closes it.
	NewFastPath() (*epoll.FastPath, error)
	// Serve begins when the program has been exec'ed. It calls serving when the program
	// has the sockets, or listens: at once, or from another goroutine.
	Serve(serving func())

	// Up says that the service is up. It is called once.
	Up()
	// Leave says that the program is about to end: no client is accepted for it any more.
	Leave()
	// Retire ends a program that no client uses, and reports whether it does.
	Retire(r Retirement) bool
	// Activity tells which clients use socket n.
	Activity(n int) (listen.Activity, error)
	// DescribeMissing says what the program has not done to be served; "": nothing.
	DescribeMissing() string

	// End ends it when the process has ended, or never became the program. Nothing that it
	// has begun is left when it returns.
	End()
}

// Begin lends the sockets to a process that is about to be made. What a socket needs only
// when there is a client is done by Go for one that is [process.ClientAbsent].
func (s Service) Begin(client process.Client) (Handover, error) {
	base := inherit{Service: s, client: client, answers: unasked{}}
	if s.Spec.Accept {
		return &connection{base}, nil
	}
	base.files = make([]*os.File, len(s.Sockets))
	for i, socket := range s.Sockets {
		lend := socket.Lend
		if client == process.ClientAbsent {
			lend = socket.LendAhead
		}
		f, err := lend()
		if err != nil {
			return nil, fmt.Errorf("%v: %w", socket, err)
		}
		base.files[i] = f
	}
	switch s.Spec.Handover {
	case spec.Bind:
		return &bind{inherit: base}, nil
	case spec.Proxy:
		return newProxy(base), nil
	}
	return &base, nil
}

// ExpireUndelivered turns away the clients whose datagrams were taken off a socket's queue, and
// have waited for hold since.
func (s Service) ExpireUndelivered(socket *listen.Socket) {
	hold := s.Spec.Hold
	if n := socket.Undelivered().Expire(hold); n > 0 {
		s.Log.Warn("clients turned away: no run of the service has read what they sent for as long as hold", "socket", socket.String(), "datagrams", n, "hold", hold)
	}
}

// Disown turns away the clients that were taken off a socket's queue for a service that was
// configured otherwise, if no run of this one can take them: they would wake it for
// nothing, for ever.
func (s Service) Disown() {
	if s.Spec.Handover == spec.Proxy {
		return
	}
	for _, socket := range s.Sockets {
		n := socket.Pending().RefuseAll()
		if socket.Spec().Seal != spec.Relayed {
			n += socket.Undelivered().Expire(1)
		}
		if n > 0 {
			s.Log.Warn("clients turned away: they were accepted for the service before the reload, which was a proxied one", "socket", socket.String(), "clients", n)
		}
	}
}
