package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Socket is the manager's end: a bound datagram socket that services notify.
// One goroutine at a time may Receive.
type Socket struct {
	file   *os.File // non-blocking, so that the runtime polls it
	closed atomic.Bool
}

// AdoptSocket takes f, a bound unix datagram socket, and returns it as a Socket. It
// sets O_NONBLOCK and SO_PASSCRED of the open file description f shares with
// its maker. Its binder should set SO_PASSCRED at once: messages
// sent before come without a pid.
func AdoptSocket(f *os.File) (*Socket, error) {
	defer func() { _ = f.Close() }()
	own := -1
	err := fd.Control(f, prepareSocket)
	if err == nil {
		own, err = fd.DupFile(f) // os.NewFile decides whether the runtime polls it, and f came into being before
	}
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	return &Socket{file: os.NewFile(uintptr(own), "notify socket")}, nil
}

func prepareSocket(fd int) error {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return os.NewSyscallError("getsockopt SO_TYPE", err)
	} else if kind != unix.SOCK_DGRAM {
		return fmt.Errorf("socket type %d, want datagram", kind)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_PASSCRED", err)
	}
	return os.NewSyscallError("fcntl F_SETFL", unix.SetNonblock(fd, true))
}

// Receive waits for the next message and returns it with the pid of its sender
// in our pid namespace; 0 if the sender has none there or is not known.
// Descriptors that come with it are closed, by the kernel: that answers a BARRIER=1.
//
// A *BadMessage comes with what does hold of the message, and the Socket lives
// on. After ctx it is ctx's error, after Close os.ErrClosed.
func (s *Socket) Receive(ctx context.Context) (Message, int, error) {
	d, err := s.receiveNext(ctx)
	switch {
	case err != nil && s.closed.Load():
		return Message{}, 0, os.ErrClosed // package os says it in several ways
	case err != nil && ctx.Err() != nil:
		return Message{}, 0, ctx.Err()
	case err != nil:
		return Message{}, 0, fmt.Errorf("notify socket: %w", err)
	case d.truncated:
		return Message{}, d.pid, &BadMessage{[]string{fmt.Sprintf("ignored: more than %d bytes", maxMessage)}}
	}
	m, err := parseMessage(d.data)
	return m, d.pid, err
}

// receiveNext ends with the next datagram or with ctx.
func (s *Socket) receiveNext(ctx context.Context) (d datagram, err error) {
	defer fd.EndWith(ctx, s.file.SetReadDeadline)()
	err = fd.Read(s.file, func(fd int) (err error) {
		d, err = receiveDatagram(fd)
		return err
	})
	return d, err
}

// Close ends a waiting Receive. The node of a path socket is not ours.
func (s *Socket) Close() error {
	s.closed.Store(true)
	if err := s.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

type datagram struct {
	data      []byte
	pid       int
	truncated bool
}

// receiveDatagram leaves no room for descriptors, which therefore the kernel closes: it writes
// the credentials first, scm_recv in include/net/scm.h.
func receiveDatagram(fd int) (datagram, error) {
	buffer := make([]byte, maxMessage+1) // one more, for the zero byte Parse forgives
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	n, oobn, flags, _, err := unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return datagram{}, os.NewSyscallError("recvmsg", err)
	}
	d := datagram{data: buffer[:n], truncated: flags&unix.MSG_TRUNC != 0}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			d.pid = int(cred.Pid)
		}
	}
	return d, err
}
