package process

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// Stop sends sig to the process, or to the one SetMain named. A program that is pid 1
// of its namespace ignores every signal it has no handler for
// (pid_namespaces(7)), also one that would end any other process: such a program
// is killed at once, and killed says so.
func (p *Process) Stop(sig syscall.Signal) (killed bool, err error) {
	return p.stopUnless(sig, p.handles)
}

// stopUnless is Stop, and asks heard whether the signal means anything to the program.
func (p *Process) stopUnless(sig syscall.Signal, heard func(syscall.Signal) bool) (killed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reaped:
		return false, nil
	case !p.running || sig == syscall.SIGKILL:
		return true, p.sendSignal(syscall.SIGKILL)
	case p.mainFD != nil:
		return false, p.signalMain(sig)
	case p.pidOne && endsByDefault(sig) && !heard(sig):
		return true, p.sendSignal(syscall.SIGKILL)
	}
	return false, p.sendSignal(sig)
}

// LostHandler reports whether a program that Stop sent sig to has given up its handler since.
// It may have raised the signal once more for the default action, as Node.js does, which
// pid 1 of a namespace does not have: then it goes on for ever. It may as well just want
// a second signal to end it, and be at work on its last clients: that cannot be told.
func (p *Process) LostHandler(sig syscall.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running && !p.reaped && p.pidOne && p.mainFD == nil && endsByDefault(sig) && !p.handles(sig)
}

// Kill ends the process and everything in its pid namespace.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = p.sendSignal(syscall.SIGKILL)
	}
}

// sendSignal is called with mu held and before the process is reaped, so that the
// number cannot be somebody else's.
func (p *Process) sendSignal(sig syscall.Signal) error {
	if p.group && sig == syscall.SIGKILL {
		if p.hasReaper && p.running {
			// Killed itself, the reaper could not kill the rest.
			_ = p.control.Close()
			sig = syscall.SIGCONT
		} else {
			_ = unix.Kill(-p.pid, sig)
		}
	}
	err := unix.Kill(p.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return os.NewSyscallError("kill", err)
}

// endsByDefault reports whether the default action of sig is to end the process,
// signal(7).
func endsByDefault(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH,
		syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	}
	return true
}

const (
	sleepingLooks = 20     // that a program sleeps with a signal blocked shows that it means to
	mostLooks     = 10_000 // of a millisecond: one that never sleeps
)

// handles reports whether sig means anything to the process: it is caught, ignored
// on purpose, waited for, or blocked for long, to be read from a signalfd(2). Whoever forks
// blocks everything for a moment, in which it may wait long for a processor or, uninterruptibly, for
// a child of vfork(2): only the looks at which it sleeps count. Unreadable is heard.
func (p *Process) handles(sig syscall.Signal) bool {
	asleep := 0
	for range mostLooks {
		status, err := proc.ReadStatus(p.pid)
		if err != nil || catchesSignal(status, sig) {
			return true
		}
		if !hasSignal(status["SigBlk"], sig) { // sigwait(3) unblocks what it waits for, meanwhile
			return proc.InSystemCall(p.pid, unix.SYS_RT_SIGTIMEDWAIT)
		}
		if state := status["State"]; !strings.HasPrefix(state, "R") && !strings.HasPrefix(state, "D") {
			asleep++
		}
		if asleep == sleepingLooks || p.awaitEnd(time.Millisecond) {
			return true
		}
	}
	return true
}

func catchesSignal(status map[string]string, sig syscall.Signal) bool {
	return hasSignal(status["SigCgt"], sig) || hasSignal(status["SigIgn"], sig)
}

// hasSignal reports whether a mask of /proc/PID/status has sig.
func hasSignal(mask string, sig syscall.Signal) bool {
	bits, err := strconv.ParseUint(mask, 16, 64)
	return err != nil || bits&(1<<(uint(sig)-1)) != 0
}

// awaitEnd waits for the end of the process, for limit at most.
func (p *Process) awaitEnd(limit time.Duration) bool {
	events, err := fd.PollFile(p.pidfd, unix.POLLIN, limit)
	return events != 0 || err != nil
}

func (p *Process) signalMain(sig syscall.Signal) error {
	err := fd.Control(p.mainFD, func(pidfd int) error { return unix.PidfdSendSignal(pidfd, sig, nil, 0) })
	if errors.Is(err, os.ErrClosed) || err == unix.ESRCH {
		return nil // it has ended, and so will the service
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}
