package process

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"syscall"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// Go is [Process.Release] and [Process.AwaitExec].
func (p *Process) Go(ctx context.Context) error {
	if err := p.Release(); err != nil {
		p.Kill()
		_, _ = p.Wait()
		return err
	}
	return p.AwaitExec(ctx)
}

// Release lets the waiting process exec the program. It does not block. A process that is
// gone is no error of Release, but of AwaitExec.
func (p *Process) Release() error {
	if err := p.checkGuard(); err != nil {
		return err
	}
	if p.needsNoRelease {
		return nil
	}
	_, err := p.control.Write([]byte{msgGo})
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return &StepError{Step: "go", Errno: errnoOf(err)}
	}
	return nil
}

// ReleaseWith is Release for a process that has a client of its own: it gets the client's
// socket, and environment that only the client makes known, which replaces entries of the same
// name. It does not block, and lends connection for the call. [spec.Process].Handed says at
// which numbers the socket will be. An error says that the process is gone.
func (p *Process) ReleaseWith(connection *os.File, env []string) error {
	if err := p.checkGuard(); err != nil {
		return err
	}
	if !p.hasReaper {
		return p.releaseCallList(connection, env)
	}
	c := codec{data: make([]byte, 5, 256)}
	c.codeTexts(&env)
	c.data[0] = msgClient
	binary.LittleEndian.PutUint32(c.data[1:], uint32(len(c.data)-5))
	if err := fdpass.SendFiles(p.control, append(c.data, msgGo), []*os.File{connection}); err != nil {
		return goneError(err)
	}
	return nil
}

// releaseCallList is ReleaseWith for a child that reads its environment where we wrote it.
func (p *Process) releaseCallList(connection *os.File, env []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.calls == nil {
		return goneError(os.ErrClosed)
	}
	if err := p.calls.writeEnv(replaceEntries(p.env, env)); err != nil {
		return err
	}
	if err := fdpass.SendFiles(p.control, []byte{msgGo}, []*os.File{connection}); err != nil {
		return goneError(err)
	}
	return nil
}

// AwaitExec returns nil once the process has exec'ed the program, which it does not before
// Release. After any error the process is dead and reaped; the end of a process that waits is
// an error.
func (p *Process) AwaitExec(ctx context.Context) error {
	if err := p.waitExec(ctx); err != nil {
		p.Kill()
		_, _ = p.Wait()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = true
	p.closeCalls()
	if !p.hasReaper {
		_ = p.control.Close()
	}
	return nil
}

func (p *Process) waitExec(ctx context.Context) error {
	defer fd.EndWith(ctx, p.control.SetDeadline)()
	msg, err := p.readMessage()
	switch {
	case isClosed(err) && !p.hasReaper && p.hasExeced(), err == nil && p.hasReaper && msg == msgRunning:
		return nil
	case err != nil:
		return p.explainEnd(ctx, "go", err)
	}
	return p.readRefusal(ctx, msg, "exec")
}
