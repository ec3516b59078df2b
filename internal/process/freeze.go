package process

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
)

// freezeTimeout is how long a process may take to stand still.
const freezeTimeout = 50 * time.Millisecond

// StopIf is [Process.Stop] if still says so while the process stands still: what it
// sees then does not change until the signal is there. In particular a program that
// has no handler, and is killed, has not taken a client meanwhile. Where it cannot be
// held (a reaper, a container's engine, another main process, more than one process),
// it may have, and what it does with that client after the signal is its own affair.
func (p *Process) StopIf(sig syscall.Signal, still func() bool) (stopped, killed bool, err error) {
	// Before it stands still: what is blocked then for the moment of a fork stays so.
	heard := p.hearsSignal(sig)
	if !p.stopThreads() {
		return false, false, nil
	}
	defer p.continueThreads()
	if !still() {
		return false, false, nil
	}
	killed, err = p.stopUnless(sig, func(sig syscall.Signal) bool {
		status, err := proc.ReadStatus(p.pid)
		return heard || err != nil || catchesSignal(status, sig)
	})
	return err == nil, killed, err
}

func (p *Process) hearsSignal(sig syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running && !p.reaped && p.handles(sig)
}

// canFreeze reports whether the program is the process that we started; with mu held.
func (p *Process) canFreeze() bool {
	return p.running && !p.reaped && !p.group && !p.hasReaper && p.mainFD == nil
}

// stopThreads stops all threads of the process, and is true when they have stopped, or
// need not.
func (p *Process) stopThreads() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.canFreeze() {
		return true
	}
	if status, err := proc.ReadStatus(p.pid); err == nil && strings.HasPrefix(status["State"], "T") {
		return false // it was stopped from outside, and is meant to stay so
	}
	// pid_namespaces(7): from outside SIGSTOP works on pid 1, too.
	if unix.Kill(p.pid, unix.SIGSTOP) != nil {
		return true // it is gone
	}
	for deadline := time.Now().Add(freezeTimeout); time.Now().Before(deadline); {
		// Without WEXITED: its end is Wait's.
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, p.pid, &info, unix.WSTOPPED|unix.WNOHANG, nil)
		if err == nil && info.Signo != 0 || err == unix.ECHILD || p.awaitEnd(time.Millisecond) { // a thread may be on its way out of the kernel
			return true
		}
	}
	_ = unix.Kill(p.pid, unix.SIGCONT)
	return false
}

func (p *Process) continueThreads() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.canFreeze() {
		_ = unix.Kill(p.pid, unix.SIGCONT)
	}
}
