package process

import (
	"encoding/binary"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// TakeListener returns the descriptor on which the process's supervised calls are
// answered, see [spec.Sandbox.Supervised] and seccomp_unotify(2): it is readable
// when one waits, and at end of file (POLLHUP) when nobody is left who could ask. The
// caller closes it; from then on the calls fail with ENOSYS. nil without
// supervision, and at the second call. It is there after Prepare.
func (p *Process) TakeListener() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	listener := p.listener
	p.listener = nil
	return listener
}

// NetnsCookie is SO_NETNS_COOKIE of the process's network namespace: a socket that
// has another one is not of its own making. 0 without supervision.
func (p *Process) NetnsCookie() uint64 { return p.cookie }

// receiveListener reads a word, and if it is msgListener what comes with it.
func (p *Process) receiveListener() (byte, error) {
	var word [1]byte
	var message fdpass.Receiver
	n, listener := 0, -1
	err := fd.Read(p.control, func(control int) (err error) {
		n, listener, err = message.Receive(control, word[:])
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case word[0] != msgListener:
		return word[0], nil
	case listener < 0:
		return 0, syscall.EPROTO
	}
	if err := unix.SetNonblock(listener, true); err != nil { // for the runtime's poller
		_ = unix.Close(listener)
		return 0, os.NewSyscallError("fcntl", err)
	}
	p.listener = os.NewFile(uintptr(listener), "seccomp listener")
	p.cookie = binary.NativeEndian.Uint64(p.calls.cookie.Bytes)
	return word[0], nil
}
