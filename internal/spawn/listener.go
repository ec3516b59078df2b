package spawn

import (
	"encoding/binary"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listener returns the descriptor on which the process's supervised calls are
// answered, see [sandbox.Spec.Supervised] and seccomp_unotify(2): it is readable
// when one waits, and at end of file (POLLHUP) when nobody is left who could ask. The
// caller closes it; from then on the calls fail with ENOSYS. nil without
// supervision, and at the second call. It is there after Prepare.
func (p *Process) Listener() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	listener := p.watch
	p.watch = nil
	return listener
}

// NetnsCookie is SO_NETNS_COOKIE of the process's network namespace: a socket that
// has another one is not of its own making. 0 without supervision.
func (p *Process) NetnsCookie() uint64 { return p.cookie }

// listener reads a word, and if it is wordWatch what comes with it.
func (p *Process) listener() (byte, error) {
	conn, err := p.control.SyscallConn()
	if err != nil {
		return 0, err
	}
	var word [1]byte
	rights := make([]byte, unix.CmsgSpace(4))
	var n, filled int
	readErr := conn.Read(func(fd uintptr) bool {
		for {
			n, filled, _, _, err = unix.Recvmsg(int(fd), word[:], rights, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	})
	switch {
	case readErr != nil:
		return 0, readErr
	case err != nil:
		return 0, os.NewSyscallError("recvmsg", err)
	case n == 0:
		return 0, io.EOF
	case word[0] != wordWatch:
		return word[0], nil
	}
	if err := p.take(rights[:filled]); err != nil {
		return 0, err
	}
	p.cookie = binary.NativeEndian.Uint64(p.steps.cookie.Bytes)
	return word[0], nil
}

// take takes the listener out of a control message.
func (p *Process) take(rights []byte) error {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return syscall.EPROTO
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return syscall.EPROTO
	}
	if err := unix.SetNonblock(fds[0], true); err != nil { // for the runtime's poller
		_ = unix.Close(fds[0])
		return os.NewSyscallError("fcntl", err)
	}
	p.watch = os.NewFile(uintptr(fds[0]), "seccomp listener")
	return nil
}
