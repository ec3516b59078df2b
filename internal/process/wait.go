package process

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Wait returns how the process ended, once it has, as often as it is asked. It
// blocks in the runtime's poller and costs no thread.
//
// Order: the end is seen; the rest of what it started is killed (for pid 1 of a
// namespace the kernel has done that); then it is reaped, and from then on its
// number is never used again.
func (p *Process) Wait() (Exit, error) {
	p.wait.Do(func() {
		if p.err = awaitReadable(p.pidfd); p.err == nil {
			p.err = p.reapProcess()
		}
		p.starter.guard.ForgetProcess(p.pidfd)
		p.starter.reserve.refill()
		p.starter.runtime.removeUsers(p.folders)
		for _, n := range p.reports.all() {
			n.removeFolder()
		}
		if p.engine != nil {
			p.engine.Ended(p.err == nil && p.exit.Signal == 0 && p.exit.Code < engineFailed)
		}
		p.mu.Lock()
		if p.mainFD != nil {
			_ = p.mainFD.Close()
		}
		p.mu.Unlock()
		p.main.Wait()
	})
	return p.exit, p.err
}

func (p *Process) reapProcess() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.group {
		_ = unix.Kill(-p.pid, unix.SIGKILL) // ESRCH: nobody left
	}
	// The layout of waitid's siginfo_t differs between architectures; wait4 of a
	// child that has ended and is not reaped cannot meet another one.
	_, status, err := fd.ReapChild(p.pid)
	p.reaped = true
	if err != nil {
		return err
	}
	p.exit = Exit{Code: status.ExitStatus()}
	if status.Signaled() {
		p.exit = Exit{Signal: syscall.Signal(status.Signal()), Core: status.CoreDump()}
	}
	return nil
}

// awaitReadable blocks until a pidfd says that its process has ended, pidfd_open(2).
func awaitReadable(pidfd *os.File) error {
	return fd.Read(pidfd, func(pidfd int) error {
		if ready, _ := fd.Poll(pidfd, unix.POLLIN, 0); ready == 0 {
			return unix.EAGAIN
		}
		return nil
	})
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
	p.reports.closeAll()
	return err
}
