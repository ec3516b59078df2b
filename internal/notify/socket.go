package notify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Socket is the manager's end: a bound datagram socket that services notify.
// One goroutine at a time may Receive.
type Socket struct {
	file   *os.File // non-blocking, so that the runtime polls it
	closed atomic.Bool
}

// Adopt takes f, a bound unix datagram socket, and returns it as a Socket. It
// sets O_NONBLOCK and SO_PASSCRED of the open file description f shares with
// whoever made it. Whoever binds it should set SO_PASSCRED at once: messages
// sent before come without a pid.
func Adopt(f *os.File) (*Socket, error) {
	defer func() { _ = f.Close() }()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	own := -1
	var errno error
	err = raw.Control(func(fd uintptr) { own, errno = pollableCopy(int(fd)) })
	if err = errors.Join(err, errno); err != nil {
		return nil, fmt.Errorf("notify socket: %w", err)
	}
	return &Socket{file: os.NewFile(uintptr(own), "notify socket")}, nil
}

// pollableCopy returns a copy: os.NewFile decides when it is called whether
// the runtime polls a descriptor, and f came into being before.
func pollableCopy(fd int) (int, error) {
	if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return -1, os.NewSyscallError("getsockopt SO_TYPE", err)
	} else if kind != unix.SOCK_DGRAM {
		return -1, fmt.Errorf("socket type %d, want datagram", kind)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return -1, os.NewSyscallError("setsockopt SO_PASSCRED", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, os.NewSyscallError("fcntl F_SETFL", err)
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	}
	return own, nil
}

// Receive waits for the next message and returns it with the pid of its sender
// in our pid namespace; 0 if the sender has none there or is not known.
// Descriptors that came with it are closed: that answers a BARRIER=1.
//
// A *BadMessage comes with what does hold of the message, and the Socket lives
// on. After ctx it is ctx's error, after Close os.ErrClosed.
func (s *Socket) Receive(ctx context.Context) (Message, int, error) {
	for {
		d, err := s.wait(ctx)
		switch {
		case err != nil && s.closed.Load():
			return Message{}, 0, os.ErrClosed // package os says it in several ways
		case err != nil && ctx.Err() != nil:
			return Message{}, 0, ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue // set late, by the AfterFunc of an earlier call
		case err != nil:
			return Message{}, 0, fmt.Errorf("notify socket: %w", err)
		case d.truncated:
			return Message{}, d.pid, &BadMessage{[]string{fmt.Sprintf("ignored: more than %d bytes", MaxMessage)}}
		}
		m, err := Parse(d.data)
		return m, d.pid, err
	}
}

// wait ends with the next datagram or with ctx, which sets a deadline passed.
func (s *Socket) wait(ctx context.Context) (d datagram, err error) {
	raw, err := s.file.SyscallConn()
	if err != nil {
		return d, err
	}
	if err := s.file.SetReadDeadline(time.Time{}); err != nil {
		return d, err
	}
	defer context.AfterFunc(ctx, func() { _ = s.file.SetReadDeadline(time.Unix(1, 0)) })()
	var errno error
	err = raw.Read(func(fd uintptr) bool {
		d, errno = receive(int(fd))
		return errno != unix.EAGAIN
	})
	return d, errors.Join(err, os.NewSyscallError("recvmsg", errno))
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

// receive closes passed descriptors, before anything else can go wrong.
func receive(fd int) (datagram, error) {
	const maxFiles = 253                 // SCM_MAX_FD, unix(7)
	buffer := make([]byte, MaxMessage+1) // one more, for the zero byte Parse forgives
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)+unix.CmsgSpace(4*maxFiles))
	var n, oobn, flags int
	var err error
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return datagram{}, err
	}
	d := datagram{data: buffer[:n], truncated: flags&unix.MSG_TRUNC != 0}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		if fds, err := unix.ParseUnixRights(&messages[i]); err == nil {
			for _, passed := range fds {
				_ = unix.Close(passed)
			}
		} else if cred, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			d.pid = int(cred.Pid)
		}
	}
	return d, err
}
