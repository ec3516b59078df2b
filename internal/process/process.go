package process

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Process is one child, from its clone to its end. All methods may be
// called from any goroutine.
type Process struct {
	starter        *Starter
	pid            int
	engine         Engine // nil: none
	group          bool   // bare: its session's first process group has its number
	pidOne         bool   // it is pid 1 of its own namespace
	needsNoRelease bool   // without Release
	hasReaper      bool   // by a reaper: control stays open, its end of file ends everything
	pidfd          *os.File
	control        *os.File
	notify         *notifySocket
	folders        []string
	env            []string  // that it will have, as far as it is known
	host           hostState // from the host, when it was prepared

	wait sync.Once // reaps
	exit Exit
	err  error
	main sync.WaitGroup // the watch of SetMain

	mu       sync.Mutex
	running  bool // execve succeeded
	reaped   bool // pid is nobody's any more
	closed   bool
	calls    *callList // what it does until it execs; nil: it has, or is gone
	listener *os.File  // the filter's listener; nil: none, or taken
	cookie   uint64    // of its network namespace, with a listener

	namespace uint64   // of mounts, of an engine
	mainFD    *os.File // pidfd of the process SetMain named; nil: pid itself
	mainPID   int
}

// Exit is how a process ended.
type Exit struct {
	Code   int            // of exit(2), when Signal is 0
	Signal syscall.Signal // that killed it
	Core   bool           // dumped
}

// OK reports an exit with 0.
func (e Exit) OK() bool { return e.Code == 0 && e.Signal == 0 }

func (e Exit) String() string {
	switch {
	case e.Signal == 0:
		return "exit status " + strconv.Itoa(e.Code)
	case e.Core:
		return "signal: " + e.Signal.String() + " (core dumped)"
	}
	return "signal: " + e.Signal.String()
}

// adoptChild takes the child.
func (b *preparation) adoptChild(c child) (*Process, error) {
	for _, fd := range []int{c.pidfd, c.control} {
		if err := unix.SetNonblock(fd, true); err != nil {
			c.endChild()
			return nil, &StepError{Step: "start", Errno: errnoOf(err), Cure: "this kernel has no pidfds, Linux 5.15 is needed"}
		}
	}
	p := &Process{
		starter: b.starter, pid: c.pid, group: b.plan.Bare, pidOne: !b.plan.Bare, hasReaper: b.plan.Sandbox.Init, needsNoRelease: !b.waitsForRelease() && !b.plan.Sandbox.Init,
		pidfd:   os.NewFile(uintptr(c.pidfd), "pidfd"),
		control: os.NewFile(uintptr(c.control), "control"),
		notify:  b.notify, folders: b.folders, host: b.taken, calls: b.calls,
	}
	if b.mustEnd {
		p.engine, b.mustEnd = b.engine, false
	}
	b.notify, b.folders, b.calls = nil, nil, nil
	return p, nil
}

// waitsForRelease reports whether the child waits for Release: for its client, or for us to open what
// the service reports to, before the program can put something else at that path.
func (b *preparation) waitsForRelease() bool {
	return b.client != ClientWaiting || b.notify != nil && b.isSupervised()
}

// isSupervised reports whether the child has a filter that asks a supervisor.
func (b *preparation) isSupervised() bool {
	return b.restrictions != nil || b.sandbox != nil && b.sandbox.Listener
}

// beforeNode is for a test.
var beforeNode = func() {}

// buildChild gives the child what it needs, and waits until it is built.
func (p *Process) buildChild(ctx context.Context, b *preparation) error {
	if err := raiseLimits(p.pid, b.plan.Limits); err != nil {
		return err
	}
	defer fd.EndWith(ctx, p.control.SetDeadline)()
	if err := p.sendInputs(b); err != nil && !errors.Is(err, syscall.EPIPE) {
		return p.explainEnd(ctx, "start", err)
	}
	if b.isSupervised() {
		word, err := p.receiveListener()
		if err != nil {
			return p.explainEnd(ctx, "prepare", err)
		}
		if word != msgListener {
			return p.readRefusal(ctx, word, "prepare")
		}
		if p.notify != nil {
			beforeNode()
			if err := p.notify.openNode(p.pid); err != nil {
				return p.explainEnd(ctx, "notify", err)
			}
		}
	}
	word, err := p.readMessage()
	if err != nil {
		return p.explainEnd(ctx, "prepare", err)
	}
	if word == msgReady {
		if p.engine != nil {
			p.namespace, err = mountNamespace(p.pid)
		}
		return err
	}
	return p.readRefusal(ctx, word, "prepare")
}

// sendInputs says what is known only now: to a reaper its plan, to the others what
// their environment will be.
func (p *Process) sendInputs(b *preparation) error {
	if !p.hasReaper {
		pid := 1
		if !p.pidOne {
			pid = p.pid
		}
		var err error
		if p.env, err = b.plan.completeEnv(pid, fdOf(p.pidfd, -1)); err != nil {
			return err
		}
		if err := p.calls.writeEnv(p.env); err != nil {
			return err
		}
	}
	err := fd.Control(p.control, b.sendDescriptors)
	if err == nil && p.hasReaper {
		err = writePlan(p.control, &b.plan)
	}
	return err
}

// Go is [Process.Release] and [Process.AwaitExec].
func (p *Process) Go(ctx context.Context) error {
	if err := p.Release(); err != nil {
		p.Kill()
		_, _ = p.Wait()
		return err
	}
	return p.AwaitExec(ctx)
}

// Release says to the waiting process that it may go on to exec the program. It
// waits for nobody: one that is gone is no error of Release, but of AwaitExec.
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

// AwaitExec waits, for as long as nobody calls Release, and returns nil once the
// process has exec'ed the program. After any error, the end of a process that waits
// is one, the process is dead and reaped.
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
	word, err := p.readMessage()
	switch {
	case isClosed(err) && !p.hasReaper && p.hasExeced(), err == nil && p.hasReaper && word == msgRunning:
		return nil
	case err != nil:
		return p.explainEnd(ctx, "go", err)
	}
	return p.readRefusal(ctx, word, "exec")
}

// isClosed reports whether the other end is. It may be with a word in it.
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
	var word [1]byte
	_, err := io.ReadFull(p.control, word[:])
	return word[0], err
}

// readRefusal is what an answer that is not the expected one says.
func (p *Process) readRefusal(ctx context.Context, word byte, step string) error {
	if err := p.callFailure(); err != nil {
		return err
	}
	text, err := io.ReadAll(p.control)
	if err != nil {
		return p.explainEnd(ctx, step, err)
	}
	return decodeRefusal(word, text, step)
}

// explainEnd explains a conversation that ended: we were told to stop, or the child
// died.
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

// closeCalls gives back the memory of the call list, which nobody reads any more; with
// mu held.
func (p *Process) closeCalls() {
	if p.calls != nil {
		p.calls.Close()
		p.calls = nil
	}
}

// Pid is the process's number in our pid namespace.
func (p *Process) Pid() int { return p.pid }

// TakeNotifySocket returns the bound datagram socket the service reports to; nil
// without Notify in its spec, and at the second call.
func (p *Process) TakeNotifySocket() *os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.notify == nil {
		return nil
	}
	file := p.notify.file
	p.notify.file = nil
	return file
}

// NotifyNode lends the node of that socket, opened with O_PATH, until Close. nil without Notify in its spec
// or without supervision.
func (p *Process) NotifyNode() *os.File {
	if p.notify == nil {
		return nil
	}
	return p.notify.node
}

// Close kills the process if it still runs, waits for its end and gives back
// what it held.
func (p *Process) Close() error {
	p.Kill()
	_, err := p.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	_ = p.control.Close()
	_ = p.pidfd.Close()
	if p.listener != nil {
		_ = p.listener.Close()
	}
	p.closeCalls()
	if p.notify != nil {
		p.notify.closeSocket()
	}
	return err
}
