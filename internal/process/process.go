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
	starter *Starter
	pid     int
	engine  Engine // nil: none
	group   bool   // bare: its session's first process group has its number
	pidOne  bool   // it is pid 1 of its own namespace
	goes    bool   // without Release
	kept    bool   // by a reaper: control stays open, its end of file ends everything
	pidfd   *os.File
	control *os.File
	notify  *notifySocket
	folders []string
	env     []string // that it will have, as far as it is known
	taken   taken    // from the host, when it was prepared

	wait sync.Once // reaps
	exit Exit
	err  error
	main sync.WaitGroup // the watch of SetMain

	mu      sync.Mutex
	running bool // execve succeeded
	reaped  bool // pid is nobody's any more
	closed  bool
	steps   *steps   // what it does until it execs; nil: it has, or is gone
	watch   *os.File // the filter's listener; nil: none, or taken
	cookie  uint64   // of its network namespace, with a listener

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

// adopt takes the child.
func (b *birth) adopt(c child) (*Process, error) {
	for _, fd := range []int{c.pidfd, c.control} {
		if err := unix.SetNonblock(fd, true); err != nil {
			c.discard()
			return nil, &StageError{Step: "start", Errno: errnoOf(err), Cure: "this kernel has no pidfds, Linux 5.15 is needed"}
		}
	}
	p := &Process{
		starter: b.starter, pid: c.pid, group: b.plan.Bare, pidOne: !b.plan.Bare, kept: b.plan.Sandbox.Init, goes: !b.waits() && !b.plan.Sandbox.Init,
		pidfd:   os.NewFile(uintptr(c.pidfd), "pidfd"),
		control: os.NewFile(uintptr(c.control), "control"),
		notify:  b.notify, folders: b.folders, taken: b.taken, steps: b.steps,
	}
	if b.engaged {
		p.engine, b.engaged = b.engine, false
	}
	b.notify, b.folders, b.steps = nil, nil, nil
	return p, nil
}

// waits reports whether the child waits for Release: for its client, or for us to open what
// the service reports to, before the program can put something else at that path.
func (b *birth) waits() bool {
	return b.client != There || b.notify != nil && b.supervised()
}

// supervised reports whether the child has a filter that asks a supervisor.
func (b *birth) supervised() bool { return b.walls != nil || b.sandbox != nil && b.sandbox.Listener }

// beforeNode is for a test.
var beforeNode = func() {}

// ready gives the child what it needs, and waits until it is built.
func (p *Process) ready(ctx context.Context, b *birth) error {
	if err := raiseLimits(p.pid, b.plan.Limits); err != nil {
		return err
	}
	defer fd.EndWith(ctx, p.control.SetDeadline)()
	if err := p.tell(b); err != nil && !errors.Is(err, syscall.EPIPE) {
		return p.broken(ctx, "start", err)
	}
	if b.supervised() {
		word, err := p.listener()
		if err != nil {
			return p.broken(ctx, "prepare", err)
		}
		if word != wordWatch {
			return p.refused(ctx, word, "prepare")
		}
		if p.notify != nil {
			beforeNode()
			if err := p.notify.openNode(p.pid); err != nil {
				return p.broken(ctx, "notify", err)
			}
		}
	}
	word, err := p.word()
	if err != nil {
		return p.broken(ctx, "prepare", err)
	}
	if word == wordReady {
		if p.engine != nil {
			p.namespace, err = mountNamespace(p.pid)
		}
		return err
	}
	return p.refused(ctx, word, "prepare")
}

// tell says what is known only now: to a reaper its plan, to the others what
// their environment will be.
func (p *Process) tell(b *birth) error {
	if !p.kept {
		pid := 1
		if !p.pidOne {
			pid = p.pid
		}
		var err error
		if p.env, err = b.plan.environ(pid, lent(p.pidfd, -1)); err != nil {
			return err
		}
		if err := p.steps.tell(p.env); err != nil {
			return err
		}
	}
	err := fd.Control(p.control, b.send)
	if err == nil && p.kept {
		err = writePlan(p.control, &b.plan)
	}
	return err
}

// Go is [Process.Release] and [Process.Started].
func (p *Process) Go(ctx context.Context) error {
	if err := p.Release(); err != nil {
		p.Kill()
		_, _ = p.Wait()
		return err
	}
	return p.Started(ctx)
}

// Release says to the waiting process that it may go on to exec the program. It
// waits for nobody: one that is gone is no error of Release, but of Started.
func (p *Process) Release() error {
	if err := p.checkGuard(); err != nil {
		return err
	}
	if p.goes {
		return nil
	}
	_, err := p.control.Write([]byte{wordGo})
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return &StageError{Step: "go", Errno: errnoOf(err)}
	}
	return nil
}

// Started waits, for as long as nobody calls Release, and returns nil once the
// process has exec'ed the program. After any error, the end of a process that waits
// is one, the process is dead and reaped.
func (p *Process) Started(ctx context.Context) error {
	if err := p.execed(ctx); err != nil {
		p.Kill()
		_, _ = p.Wait()
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = true
	p.forgetSteps()
	if !p.kept {
		_ = p.control.Close()
	}
	return nil
}

func (p *Process) execed(ctx context.Context) error {
	defer fd.EndWith(ctx, p.control.SetDeadline)()
	word, err := p.word()
	switch {
	case closed(err) && !p.kept && p.became(), err == nil && p.kept && word == wordKept:
		return nil
	case err != nil:
		return p.broken(ctx, "go", err)
	}
	return p.refused(ctx, word, "exec")
}

// closed reports whether the other end is. It may be with a word in it.
func closed(err error) bool { return err == io.EOF || errors.Is(err, syscall.ECONNRESET) }

// became reports whether the child came to its execve.
func (p *Process) became() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.steps != nil && p.steps.execed()
}

// failure is what one of its calls failed with.
func (p *Process) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.steps == nil {
		return nil
	}
	return p.steps.Failure()
}

func (p *Process) word() (byte, error) {
	var word [1]byte
	_, err := io.ReadFull(p.control, word[:])
	return word[0], err
}

// refused is what an answer that is not the expected one says.
func (p *Process) refused(ctx context.Context, word byte, step string) error {
	if err := p.failure(); err != nil {
		return err
	}
	text, err := io.ReadAll(p.control)
	if err != nil {
		return p.broken(ctx, step, err)
	}
	return decodeRefusal(word, text, step)
}

// broken explains a conversation that ended: we were told to stop, or the child
// died.
func (p *Process) broken(ctx context.Context, step string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.Kill()
	exit, waitErr := p.Wait()
	if waitErr != nil {
		return waitErr
	}
	if failed := p.failure(); failed != nil { // it could not say so itself
		return failed
	}
	return &StageError{Step: step, Errno: errnoOf(err), Cure: "the new process ended with " + exit.String()}
}

// forgetSteps gives back the memory of the call list, which nobody reads any more; with
// mu held.
func (p *Process) forgetSteps() {
	if p.steps != nil {
		p.steps.Close()
		p.steps = nil
	}
}

// Pid is the process's number in our pid namespace.
func (p *Process) Pid() int { return p.pid }

// NotifySocket returns the bound datagram socket the service reports to; nil
// without Notify in its spec, and at the second call.
func (p *Process) NotifySocket() *os.File {
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
	if p.watch != nil {
		_ = p.watch.Close()
	}
	p.forgetSteps()
	if p.notify != nil {
		p.notify.close()
	}
	return err
}
