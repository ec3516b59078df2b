package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// retryExhausted is how long a listener rests when descriptors or memory ran
// out, unless one of our connections ends before: it may be others' limits
// (ENFILE, ENOMEM), of which nobody tells us the end.
const retryExhausted = 100 * time.Millisecond

// past is a deadline that ends every wait.
var past = time.Unix(1, 0)

// listener accepts connections from a socket it shares with the activator and
// with the instance after us.
type listener struct {
	server      *server
	name        string
	accept      func() (connection, error)
	setDeadline func(time.Time) error
}

func openListener(s *server, f *os.File, k kind) (endpoint, error) {
	if k.socktype == unix.SOCK_STREAM && k.domain != unix.AF_VSOCK {
		return openNetListener(s, f)
	}
	own, err := pollable(f)
	if err != nil {
		return nil, err
	}
	l := &listener{server: s, name: "vsock://" + describe(k.local), setDeadline: own.SetReadDeadline}
	wrap := newVsockConn
	if k.socktype == unix.SOCK_SEQPACKET {
		l.name, wrap = "unixpacket://"+describe(k.local), newPacketConn
	}
	l.accept = func() (connection, error) {
		accepted, err := acceptFile(own, l.name)
		if err != nil {
			return nil, err
		}
		return wrap(accepted)
	}
	return l, nil
}

// openNetListener has package net accept, so that the connections are of its
// bare types, which splice.
func openNetListener(s *server, f *os.File) (endpoint, error) {
	shared, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	l := &listener{server: s, name: shared.Addr().Network() + "://" + shared.Addr().String()}
	switch nl := shared.(type) {
	case *net.TCPListener:
		l.setDeadline = nl.SetDeadline
	case *net.UnixListener:
		nl.SetUnlinkOnClose(false) // the path is the activator's
		l.setDeadline = nl.SetDeadline
	default:
		return nil, fmt.Errorf("%s: not supported", l.name)
	}
	l.accept = func() (connection, error) {
		accepted, err := shared.Accept()
		if err != nil {
			return nil, err
		}
		return &streamConn{accepted, l.name}, nil
	}
	return l, nil
}

func (l *listener) String() string { return l.name }

func (l *listener) serve() error {
	paused := false
	for !l.server.isStopping() {
		c, err := l.accept()
		switch {
		case err == nil:
			if paused {
				l.server.log.warnf("%s: accepting again", l.name)
				paused = false
			}
			l.server.serveConnection(c)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil
		case isExhausted(err):
			if !paused {
				l.server.log.warnf("%s: %v: paused with %d connections open, clients wait in the queue; raise limits = { nofile = ... }",
					l.name, err, l.server.connections.Load())
				paused = true
			}
			l.rest()
		case isClients(err):
			l.server.log.debugf("%s: %v", l.name, err)
		default:
			return err
		}
	}
	return nil
}

func (l *listener) stop() { _ = l.setDeadline(past) }

func (l *listener) rest() {
	timer := time.NewTimer(retryExhausted)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.server.freed:
	case <-l.server.stopping:
	}
}

// isExhausted: accept(2) fails before it takes the client off the queue.
func isExhausted(err error) bool {
	return isOneOf(err, unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM)
}

// isClients: an error of the one connection that was accepted, accept(2).
func isClients(err error) bool {
	return isOneOf(err, unix.ECONNABORTED, unix.EINTR, unix.EPROTO, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET,
		unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENETUNREACH, unix.EPERM)
}

func isOneOf(err error, errnos ...unix.Errno) bool {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return false
	}
	for _, e := range errnos {
		if errno == e {
			return true
		}
	}
	return false
}

// acceptFile accepts where package net has no type. The caller closes the
// connection, which the runtime polls.
func acceptFile(from *os.File, name string) (*os.File, error) {
	accepted := -1
	err := fd.Read(from, func(fd int) (err error) {
		accepted, _, err = unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return err
	})
	if err != nil {
		return nil, os.NewSyscallError("accept4", err)
	}
	return os.NewFile(uintptr(accepted), name), nil
}

// passed is a connection that was accepted by the activator (accept = true).
type passed struct {
	server *server
	connection
}

func openConnection(s *server, f *os.File, k kind) (endpoint, error) {
	if k.socktype == unix.SOCK_STREAM && k.domain != unix.AF_VSOCK {
		c, err := net.FileConn(f)
		if err != nil {
			return nil, err
		}
		return &passed{s, &streamConn{c, c.LocalAddr().Network() + "://" + c.LocalAddr().String()}}, nil
	}
	own, err := pollable(f)
	if err != nil {
		return nil, err
	}
	wrap := newVsockConn
	if k.socktype == unix.SOCK_SEQPACKET {
		wrap = newPacketConn
	}
	c, err := wrap(own)
	if err != nil {
		return nil, err
	}
	return &passed{s, c}, nil
}

func (p *passed) serve() error {
	p.server.connections.Add(1)
	p.server.echo(p.connection)
	return nil
}

func (p *passed) stop() {} // taken before we began: it is drained
