package spawn

import (
	"context"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one child, from its second stage to its end. All methods may be
// called from any goroutine.
type Process struct {
	starter *Starter
	pid     int
	group   bool // bare: its session's first process group has its number
	pidOne  bool // it is pid 1 of its own namespace
	kept    bool // by a reaper: control stays open, its end of file ends everything
	pidfd   *os.File
	control *os.File
	notify  *notifySocket
	folders []string
	cookie  uint64 // of its network namespace, with a listener
	taken   taken  // from the host, when it was prepared

	wait sync.Once // reaps
	exit Exit
	err  error
	main sync.WaitGroup // the watch of SetMain

	mu      sync.Mutex
	running bool // execve succeeded
	reaped  bool // pid is nobody's any more
	closed  bool
	watch   *os.File // the filter's listener; nil: none, or taken
	mainFD  *os.File // pidfd of the process SetMain named; nil: pid itself
	mainPID int
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

// adopt takes pidfd and control.
func (b *birth) adopt(pid, pidfd, control int) (*Process, error) {
	for _, fd := range []int{pidfd, control} {
		if err := unix.SetNonblock(fd, true); err != nil {
			_ = unix.Kill(pid, unix.SIGKILL)
			var status unix.WaitStatus
			_, _ = unix.Wait4(pid, &status, 0, nil)
			_ = unix.Close(control)
			_ = unix.Close(max(pidfd, 0))
			return nil, &StageError{Step: "start", Errno: errnoOf(err), Cure: "this kernel has no pidfds, Linux 5.15 is needed"}
		}
	}
	p := &Process{
		starter: b.starter, pid: pid, group: b.spec.Bare, pidOne: !b.spec.Bare, kept: b.plan.Init,
		pidfd:   os.NewFile(uintptr(pidfd), "pidfd"),
		control: os.NewFile(uintptr(control), "stage"),
		notify:  b.notify, folders: b.folders, taken: b.taken,
	}
	b.notify, b.folders = nil, nil
	return p, nil
}

// ready tells the plan and waits for the stage to have done its part.
func (p *Process) ready(ctx context.Context, told *plan) error {
	if err := raiseLimits(p.pid, told.Limits); err != nil {
		return err
	}
	defer p.deadline(ctx)()
	if err := writePlan(p.control, told); err != nil && !errors.Is(err, syscall.EPIPE) {
		return p.broken(ctx, "plan", err)
	}
	var word byte
	var err error
	if told.Sandbox != nil && told.Sandbox.Listener {
		if word, err = p.listener(); err != nil {
			return p.broken(ctx, "prepare", err)
		}
		if word != wordWatch {
			return p.refused(ctx, word, "prepare")
		}
	}
	if word, err = p.word(); err != nil {
		return p.broken(ctx, "prepare", err)
	}
	if word == wordReady {
		return nil
	}
	return p.refused(ctx, word, "prepare")
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

// Release says to the waiting stage that it may go on to exec the program. It
// waits for nobody: a stage that is gone is no error of Release, but of Started.
func (p *Process) Release() error {
	if err := p.starter.guard.check(p); err != nil {
		return err
	}
	_, err := p.control.Write([]byte{wordGo})
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return &StageError{Step: "go", Errno: errnoOf(err)}
	}
	return nil
}

// Started waits, for as long as nobody calls Release, and returns nil once the
// stage has exec'ed the program. After any error, the end of a stage that waits
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
	if !p.kept {
		_ = p.control.Close()
	}
	return nil
}

func (p *Process) execed(ctx context.Context) error {
	defer p.deadline(ctx)()
	word, err := p.word()
	if err != nil {
		return p.broken(ctx, "go", err)
	}
	if word != wordExec {
		return p.refused(ctx, word, "go")
	}
	switch word, err = p.word(); {
	case err == io.EOF && !p.kept, err == nil && p.kept && word == wordKept:
		return nil
	case err != nil:
		return p.broken(ctx, "exec", err)
	}
	return p.refused(ctx, word, "exec")
}

func (p *Process) word() (byte, error) {
	var word [1]byte
	_, err := io.ReadFull(p.control, word[:])
	return word[0], err
}

// refused reads the rest of an answer that is not the expected one.
func (p *Process) refused(ctx context.Context, word byte, step string) error {
	text, err := io.ReadAll(p.control)
	if err != nil {
		return p.broken(ctx, step, err)
	}
	return decodeRefusal(word, text, step)
}

// broken explains a conversation that ended: we were told to stop, or the stage
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
	return &StageError{Step: step, Errno: errnoOf(err), Cure: "the second stage ended with " + exit.String()}
}

// deadline makes reads and writes of the conversation end with ctx, until the
// returned function is called.
func (p *Process) deadline(ctx context.Context) func() {
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = p.control.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-done
			_ = p.control.SetDeadline(time.Time{})
		}
	}
}

// Pid is the process's number in our pid namespace.
func (p *Process) Pid() int { return p.pid }

// NotifySocket returns the bound datagram socket the service reports to; nil
// without Spec.Notify, and at the second call.
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
	if p.notify != nil {
		p.notify.close()
	}
	return err
}
