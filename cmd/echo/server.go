package main

import (
	"context"
	"fmt"
	"log"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/notify"
)

type options struct {
	debug, sdnotify, version bool
	startSleep, drain        time.Duration
	exitAfter                uint64 // answers; 0: never
}

// server is the process: what it serves and why it ends.
type server struct {
	options
	ctx         context.Context         // done: nothing more may be taken
	stop        context.CancelCauseFunc // with the error that ends the process; nil: it ends in order
	answers     atomic.Uint64
	connections atomic.Int64   // open ones
	running     sync.WaitGroup // endpoints and connections
}

// endpoint is what one passed descriptor is served by.
type endpoint struct {
	name string
	// serve returns when it may take nothing more. What it took is answered
	// then, or in the hands of a connection. An error ends the whole process:
	// the passer of the descriptor mends it and starts us again.
	serve func() error
	// setDeadline ends a wait for clients; nil: there is none. The clients in
	// the queue stay there for the next instance: no shutdown(2) ever.
	setDeadline func(time.Time) error
}

// noteAnswered counts one request, also where the client broke off: there is no one left
// to answer.
func (s *server) noteAnswered() {
	if s.answers.Add(1) == s.exitAfter {
		s.debugf("%d answers: draining", s.exitAfter)
		s.stop(nil)
	}
}

// tellState sends state where asked to. A manager that does not listen is no reason
// not to serve.
func (s *server) tellState(state string) {
	if !s.sdnotify {
		return
	}
	if err := notify.SendState(state); err != nil {
		log.Print(err)
	}
}

func (s *server) debugf(format string, args ...any) {
	if s.debug {
		log.Printf(format, args...)
	}
}

// describeSocket prints an address in the configuration's words.
func describeSocket(address unix.Sockaddr) string {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrVM:
		return fmt.Sprintf("%d:%d", a.CID, a.Port)
	case *unix.SockaddrUnix:
		if a.Name != "" {
			return a.Name
		}
	}
	return "(unnamed)"
}

// maxDatagram is the longest datagram or record that is answered, in bytes.
// Longer ones, which only unix sockets have, are never answered cut.
const maxDatagram = 64 << 10
