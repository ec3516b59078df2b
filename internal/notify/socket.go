package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// Socket is the manager's end: a bound datagram socket that services notify.
// One goroutine at a time may Receive.
type Socket struct {
	file   *os.File // non-blocking, so that the runtime polls it
	closed atomic.Bool
	most   int // descriptors of a message that are received; the kernel closes the others
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

// TakeFiles has descriptors that come with a message received, see [Socket.ReceiveFiles].
func (s *Socket) TakeFiles() { s.most = fdpass.MaxFiles }

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
	m, fds, pid, err := s.ReceiveFiles(ctx)
	closeAll(fds)
	return m, pid, err
}

func closeAll(fds []int) {
	for _, number := range fds {
		_ = unix.Close(number)
	}
}

// ReceiveFiles is Receive. The caller closes the descriptors that it returns, after TakeFiles: that answers a
// BARRIER=1 then.
func (s *Socket) ReceiveFiles(ctx context.Context) (Message, []int, int, error) {
	d, err := s.receiveNext(ctx)
	m, err := s.readDatagram(ctx, &d, err)
	return m, d.fds, d.pid, err
}

// ReceiveLeft is ReceiveFiles for what is there already; false: nothing is.
func (s *Socket) ReceiveLeft() (m Message, fds []int, found bool, err error) {
	var d datagram
	err = fd.Control(s.file, func(fd int) (err error) {
		d, err = receiveDatagram(fd, s.most)
		return err
	})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, os.ErrClosed) {
		return Message{}, nil, false, nil
	}
	m, err = s.readDatagram(context.Background(), &d, err)
	return m, d.fds, true, err
}

// readDatagram is the message in what was received with err.
func (s *Socket) readDatagram(ctx context.Context, d *datagram, err error) (Message, error) {
	switch {
	case err != nil && s.closed.Load():
		return Message{}, os.ErrClosed // package os says it in several ways
	case err != nil && ctx.Err() != nil:
		return Message{}, ctx.Err()
	case err != nil:
		return Message{}, fmt.Errorf("notify socket: %w", err)
	case d.truncated:
		return Message{}, &BadMessage{[]string{fmt.Sprintf("ignored: more than %d bytes", maxMessage)}}
	}
	return parseMessage(d.data)
}

// receiveNext ends with the next datagram or with ctx.
func (s *Socket) receiveNext(ctx context.Context) (d datagram, err error) {
	defer fd.EndWith(ctx, s.file.SetReadDeadline)()
	err = fd.Read(s.file, func(fd int) (err error) {
		d, err = receiveDatagram(fd, s.most)
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
	fds       []int
	pid       int
	truncated bool
}

// receiveDatagram leaves room for most descriptors. The kernel closes the others: it writes
// the credentials first, scm_recv in include/net/scm.h.
func receiveDatagram(fd, most int) (datagram, error) {
	buffer := make([]byte, maxMessage+1) // one more, for the zero byte Parse forgives
	room := unix.CmsgSpace(unix.SizeofUcred)
	if most > 0 {
		room += fdpass.RightsSpace(most)
	}
	oob := make([]byte, room)
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
	d.fds = fdpass.DecodeRights(messages)
	return d, err
}
