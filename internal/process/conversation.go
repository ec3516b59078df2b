package process

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// isClosed reports whether the other end is: with ECONNRESET a message was left in it.
func isClosed(err error) bool { return err == io.EOF || errors.Is(err, syscall.ECONNRESET) }

// hasExeced reports whether the child came to its execve.
func (p *Process) hasExeced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls != nil && p.calls.hasExeced()
}

// callFailure is what one of its calls failed with.
func (p *Process) callFailure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		return nil
	}
	return p.calls.Failure()
}

func (p *Process) readMessage() (byte, error) {
	var msg [1]byte
	_, err := io.ReadFull(p.control, msg[:])
	return msg[0], err
}

// receiveListener reads a message, and takes the listener that comes with msgListener.
func (p *Process) receiveListener() (byte, error) {
	var msg [1]byte
	var message fdpass.Receiver
	n, listener := 0, -1
	err := fd.Read(p.control, func(control int) (err error) {
		n, listener, err = message.Receive(control, msg[:])
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, io.EOF
	case msg[0] != msgListener:
		return msg[0], nil
	case listener < 0:
		return 0, syscall.EPROTO
	}
	if err := unix.SetNonblock(listener, true); err != nil { // for the runtime's poller
		_ = unix.Close(listener)
		return 0, os.NewSyscallError("fcntl", err)
	}
	p.listener = os.NewFile(uintptr(listener), "seccomp listener")
	p.cookie = binary.NativeEndian.Uint64(p.calls.cookie.Bytes)
	return msg[0], nil
}

// readRefusal is what an answer that is not the expected one says.
func (p *Process) readRefusal(ctx context.Context, msg byte, step string) error {
	if err := p.callFailure(); err != nil {
		return err
	}
	text, err := io.ReadAll(p.control)
	if err != nil {
		return p.explainEnd(ctx, step, err)
	}
	return decodeRefusal(msg, text, step)
}

// decodeRefusal is the error in a message that was not the expected one.
func decodeRefusal(msg byte, text []byte, step string) error {
	refusal := new(StepError)
	if msg != msgError || json.Unmarshal(text, refusal) != nil {
		return &StepError{Step: step, Errno: syscall.EPROTO, Cure: "the reaper said something else: is the activator's binary being replaced?"}
	}
	return refusal
}

// explainEnd explains a conversation that ended: ctx did, or the child.
func (p *Process) explainEnd(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.Kill()
	exit, waitErr := p.Wait()
	if waitErr != nil {
		return waitErr
	}
	if failed := p.callFailure(); failed != nil { // it could not say so itself
		return failed
	}
	return &StepError{Step: step, Errno: errnoOf(err), Cure: "the new process ended with " + exit.String()}
}
