package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

var (
	// With these accept(2) leaves the client in the queue.
	exhausted = []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM}
	// These are of one client, and a socket forgets them when it tells them.
	passing = []unix.Errno{unix.ECONNABORTED, unix.ECONNREFUSED, unix.EPROTO, unix.ENOPROTOOPT, unix.EHOSTDOWN, unix.ENONET,
		unix.EHOSTUNREACH, unix.ENETDOWN, unix.ENETUNREACH, unix.EPERM, unix.EACCES, unix.EMSGSIZE}
)

func isOneOf(err error, all []unix.Errno) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && slices.Contains(all, errno)
}

// acceptClients answers every connection in a goroutine of its own.
func (s *server) acceptClients(name string, listener *os.File, echo func(*os.File) error) error {
	for paused := false; s.ctx.Err() == nil; {
		var accepted int
		var from unix.Sockaddr
		err := fd.Read(listener, func(n int) (err error) {
			accepted, from, err = unix.Accept4(n, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return err
		})
		switch {
		case err == nil:
			if paused {
				log.Printf("%s: accepting again", name)
			}
			paused = false
			c := os.NewFile(uintptr(accepted), name+" from "+describeSocket(from))
			s.running.Go(func() { s.answerClient(c, echo) })
		case isOneOf(err, exhausted):
			if !paused {
				log.Printf("%s: %v: paused with %d connections open, clients wait in the queue; raise limits = { nofile = ... }",
					name, err, s.connections.Load())
			}
			paused = true
			select { // others may have used it up: nobody tells when there is some again
			case <-time.After(10 * time.Millisecond):
			case <-s.ctx.Done():
			}
		case isOneOf(err, passing):
			s.debugf("%s: %v", name, err)
		default:
			return os.NewSyscallError("accept4", err)
		}
	}
	return nil
}

// answerClient takes c and echoes until the client's end of file, and ours sent.
func (s *server) answerClient(c *os.File, echo func(*os.File) error) {
	s.debugf("%s: open, %d connections are", c.Name(), s.connections.Add(1))
	err := echo(c)
	if err == nil {
		err = fd.Control(c, func(n int) error { return os.NewSyscallError("shutdown", unix.Shutdown(n, unix.SHUT_WR)) })
	}
	err = errors.Join(err, c.Close())
	s.debugf("%s: ended, error %v, %d connections are open", c.Name(), err, s.connections.Add(-1))
	s.noteAnswered()
}

// echoStream begins with a small buffer: most clients send a line. Of a client
// that sends more, io.Copy splices TCP. That takes three descriptors.
func echoStream(c *os.File) error {
	_ = fd.Control(c, func(n int) error { return unix.SetsockoptInt(n, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }) // others have no delay
	const first, large = 4 << 10, 256 << 10
	buffer := make([]byte, first)
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			if _, err := c.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n < first || len(buffer) > first {
			continue
		}
		buffer = make([]byte, large)
		if bulk, err := net.FileConn(c); err == nil {
			defer func() { _ = bulk.Close() }()
			if tcp, ok := bulk.(*net.TCPConn); ok {
				_, err := io.Copy(tcp, tcp) // bare: a wrapper would not splice
				return err
			}
		}
	}
}

// echoRecords answers records one by one. Recvmsg returns 0 for an empty record
// and for the end of file alike; with SO_PASSCRED a record, also an empty one,
// comes with the sender's credentials and the end of file without.
func echoRecords(c *os.File) error {
	err := fd.Control(c, func(n int) error { return unix.SetsockoptInt(n, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		return os.NewSyscallError("setsockopt SO_PASSCRED", err)
	}
	buffer := make([]byte, maxDatagram)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)) // no room for descriptors: the kernel drops them
	for {
		var n, oobn, flags int
		err := fd.Read(c, func(fd int) (err error) {
			n, oobn, flags, _, err = unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		switch {
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		case n == 0 && oobn == 0:
			return nil
		case flags&unix.MSG_TRUNC != 0:
			return fmt.Errorf("a record of more than %d bytes", maxDatagram)
		}
		if _, err := c.Write(buffer[:n]); err != nil {
			return err
		}
	}
}
