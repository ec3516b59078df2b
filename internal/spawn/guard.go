package spawn

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
	"activator/internal/reflex"
	"activator/internal/sandbox"
)

// guardName is argv[0] of the guard: the activator's own binary that waits for
// the activator's end and kills what is left of its processes. The parent-death
// signal alone does not reach everybody: it belongs to a thread, so a program
// that calls execve(2) from another one than its first loses it, and any program
// may clear it (PR_SET_PDEATHSIG, prctl(2)).
const guardName = "activator-guard"

// guard is our side of the guard: one process for each Starter, which is sent a
// pidfd of every process before anything untrusted runs in it, over a socketpair
// whose end of file is our death. Nothing is answered: what is in the queue is
// read before the end of file.
//
// The guard may be killed, too. Whoever starts a process next sees it, starts
// another guard and tells it of all who live; only if that fails does the start,
// since it would be unguarded. So nobody needs to be told of a guard that died.
type guard struct {
	starter  *Starter
	patience time.Duration

	mu     sync.Mutex
	pid    int // 0: none
	socket *os.File
	gone   uint64                // atomic: guards whose socket has been closed, or is about to be
	held   map[*Process]struct{} // born, and not reaped
}

// guardPatience (guard.patience) is how long a guard may leave its queue unread (it has been
// stopped, then, and another one takes its place), and how long it may take for
// its work at our end.
const guardPatience = 5 * time.Second

// hold puts a process under guard, until forget. It shares the pidfd.
func (g *guard) hold(p *Process) error {
	if p.keepsItself() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[p] = struct{}{}
	if g.alive() && g.tell(p) == nil {
		return nil
	}
	return g.renew()
}

// check makes sure that a process which is held is under guard still.
func (g *guard) check(p *Process) error {
	if p.keepsItself() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.alive() {
		return nil
	}
	return g.renew()
}

// guards has a reflex do nothing once check would have to start another guard.
func (g *guard) guards(p *Process, r *reflex.Reflex) bool {
	if p.keepsItself() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.alive() {
		return false
	}
	return fd.Control(g.socket, func(socket int) error {
		r.Open(socket, &g.gone)
		return nil
	}) == nil
}

// forget drops a process that has been reaped. The guard finds out by itself.
func (g *guard) forget(p *Process) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.held, p)
}

// keepsItself reports whether the process must not be killed at our end: a bare
// reaper is our own program, which nobody else's exec or prctl changes, and has
// to outlive us until it has killed its program and what that left behind. A
// reaper in a sandbox is pid 1, and the kernel does that work.
func (p *Process) keepsItself() bool { return p.group && p.kept }

// alive reports whether the guard still holds its end: unix_poll of the kernel
// says POLLHUP as soon as that is closed. g.mu is held, here and below.
func (g *guard) alive() bool {
	if g.socket == nil {
		return false
	}
	events, err := fd.PollFile(g.socket, 0, 0)
	return events == 0 && err == nil
}

// tell sends the guard the pidfd of one process.
func (g *guard) tell(p *Process) error {
	if err := g.socket.SetWriteDeadline(time.Now().Add(g.patience)); err != nil {
		return err
	}
	err := fdpass.SendFiles(g.socket, []byte{0}, []*os.File{p.pidfd})
	return errors.Join(err, g.socket.SetWriteDeadline(time.Time{}))
}

// renew starts a guard in the place of one that is gone, or was never there.
func (g *guard) renew() error {
	g.drop()
	err := g.start()
	for p := range g.held {
		if err != nil {
			break
		}
		err = g.tell(p)
	}
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	g.drop()
	return fmt.Errorf("guard, without which no service is started: %w", err)
}

// start starts the process. It has a session of its own, so that no key and no
// hang-up of a terminal means it, no parent-death signal, and no other
// descriptor than its end of the socketpair.
func (g *guard) start() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return sandbox.OpenError("socketpair", "", err)
	}
	ours, theirs := pair[0], pair[1]
	defer func() { _ = unix.Close(theirs) }()
	null := uintptr(g.starter.null)
	pid, err := g.starter.startSelf([]string{guardName}, &syscall.ProcAttr{
		Dir: "/", Env: stageEnv(), Files: []uintptr{null, null, null, uintptr(theirs)},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil {
		err = unix.SetNonblock(ours, true) // our end only: a write waits in the runtime's poller
	}
	if err != nil {
		_ = unix.Close(ours)
		return err
	}
	g.pid, g.socket = pid, os.NewFile(uintptr(ours), "guard")
	return nil
}

// drop kills a guard that is of no use. It is dead before its end of file could
// tell it to kill everybody.
func (g *guard) drop() {
	if g.pid != 0 {
		_ = unix.Kill(g.pid, unix.SIGKILL)
	}
	g.reap()
}

// close lets the guard do its work, which is nothing where all processes have
// been reaped, and reaps it.
func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid == 0 {
		return
	}
	atomic.AddUint64(&g.gone, 1)
	_ = g.socket.Close()
	_ = unix.Kill(g.pid, unix.SIGCONT) // were it stopped, we would wait in vain
	if pidfd, err := unix.PidfdOpen(g.pid, 0); err == nil {
		_, _ = fd.Poll(pidfd, unix.POLLIN, g.patience)
		_ = unix.Close(pidfd)
	}
	g.drop()
}

func (g *guard) reap() {
	if g.socket != nil {
		atomic.AddUint64(&g.gone, 1)
		_ = g.socket.Close()
		g.socket = nil
	}
	if g.pid != 0 {
		_, _, _ = fd.Reap(g.pid)
		g.pid = 0
	}
}
