package process

import (
	"activator/internal/epoll"
)

// keepsItself reports whether the process must not be killed at our end: a bare
// reaper is our own program, which no other exec or prctl changes, and has
// to outlive us until it has killed its program and what that left behind. A
// reaper in a sandbox is pid 1, and the kernel does that work.
func (p *Process) keepsItself() bool { return p.group && p.hasReaper }

// putUnderGuard puts the process under guard, until it has been reaped.
func (p *Process) putUnderGuard() error {
	if p.keepsItself() {
		return nil
	}
	return p.starter.guard.AddProcess(p.pidfd)
}

// checkGuard makes sure that the process is under guard still.
func (p *Process) checkGuard() error {
	if p.keepsItself() {
		return nil
	}
	return p.starter.guard.Ensure()
}

// addGuard has a fast path do nothing once checkGuard would have to start another guard.
func (p *Process) addGuard(r *epoll.FastPath) bool {
	return p.keepsItself() || p.starter.guard.AddToFastPath(r)
}
