package guard

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
)

// name is argv[0] of the guard: the activator's own binary that waits for
// the activator's end and kills what is left of its processes. The parent-death
// signal alone does not reach all of them: it belongs to a thread, so a program
// that calls execve(2) from another one than its first loses it, and any program
// may clear it (PR_SET_PDEATHSIG, prctl(2)).
const name = "activator-guard"

// Guard is our side: one process, which is sent a
// pidfd of every process before anything untrusted runs in it, over a socketpair
// whose end of file is our death. Nothing is answered: the queue is read
// before the end of file.
//
// The guard may be killed, too. The next start of a process sees that, starts another guard
// and sends it all pidfds. If that fails, the start fails, since it would be unguarded. So a
// guard's end need not be reported.
type Guard struct {
	starter Starter
	timeout time.Duration

	mu     sync.Mutex
	pid    int // 0: none
	socket *os.File
	closed uint64                // atomic: guards whose socket has been closed, or is about to be
	held   map[*os.File]struct{} // pidfds of processes that have not been reaped
}

// Starter starts our own binary with name as argv[0], a session of its own, so that no key and
// no hang-up of a terminal means it, no parent-death signal, /dev/null as 0, 1 and 2, and
// socket, which is lent, as 3. The guard kills and reaps it.
type Starter func(name string, socket int) (pid int, err error)

// defaultTimeout (Guard.timeout) is how long a guard may leave its queue unread (it has been
// stopped, then, and another one takes its place), and how long it may take for
// its work at our end.
const defaultTimeout = 5 * time.Second

// Start starts a guard.
func Start(starter Starter) (*Guard, error) {
	g := &Guard{starter: starter, timeout: defaultTimeout, held: make(map[*os.File]struct{})}
	if err := g.startAnother(); err != nil {
		return nil, err
	}
	return g, nil
}

// AddProcess puts a process under guard. It lends pidfd until Forget, and shares it with the guard.
func (g *Guard) AddProcess(pidfd *os.File) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held[pidfd] = struct{}{}
	if g.isAlive() && g.sendPidfd(pidfd) == nil {
		return nil
	}
	return g.startAnother()
}

// Ensure makes sure that the processes that are held are under guard still.
func (g *Guard) Ensure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isAlive() {
		return nil
	}
	return g.startAnother()
}

// AddToFastPath has a fast path do nothing once Check would have to start another guard; false: it would
// have to now.
func (g *Guard) AddToFastPath(r *epoll.FastPath) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isAlive() {
		return false
	}
	return fd.Control(g.socket, func(socket int) error {
		r.AddOpen(socket, &g.closed)
		return nil
	}) == nil
}

// ForgetProcess drops a process that has been reaped. The guard finds out by itself.
func (g *Guard) ForgetProcess(pidfd *os.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.held, pidfd)
}

// Close lets the guard do its work, which is nothing where all processes have
// been reaped, and reaps it. nil is fine.
func (g *Guard) Close() {
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pid == 0 {
		return
	}
	atomic.AddUint64(&g.closed, 1)
	_ = g.socket.Close()
	_ = unix.Kill(g.pid, unix.SIGCONT) // were it stopped, we would wait in vain
	if pidfd, err := unix.PidfdOpen(g.pid, 0); err == nil {
		_, _ = fd.Poll(pidfd, unix.POLLIN, g.timeout)
		_ = unix.Close(pidfd)
	}
	g.endProcess()
}

// isAlive reports whether the guard still holds its end: unix_poll of the kernel
// says POLLHUP as soon as that is closed. g.mu is held, here and below.
func (g *Guard) isAlive() bool {
	if g.socket == nil {
		return false
	}
	events, err := fd.PollFile(g.socket, 0, 0)
	return events == 0 && err == nil
}

// sendPidfd sends the guard the pidfd of one process.
func (g *Guard) sendPidfd(pidfd *os.File) error {
	if err := g.socket.SetWriteDeadline(time.Now().Add(g.timeout)); err != nil {
		return err
	}
	err := fdpass.SendFiles(g.socket, []byte{0}, []*os.File{pidfd})
	return errors.Join(err, g.socket.SetWriteDeadline(time.Time{}))
}

// startAnother starts a guard in the place of one that is gone, or was never there.
func (g *Guard) startAnother() error {
	g.endProcess()
	err := g.startProcess()
	for pidfd := range g.held {
		if err != nil {
			break
		}
		err = g.sendPidfd(pidfd)
	}
	if err == nil || errors.Is(err, os.ErrClosed) {
		return err
	}
	g.endProcess()
	return fmt.Errorf("guard, without which no service is started: %w", err)
}

// startProcess starts the process.
func (g *Guard) startProcess() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return sandbox.OpenError("socketpair", "", err)
	}
	ours, theirs := pair[0], pair[1]
	defer func() { _ = unix.Close(theirs) }()
	pid, err := g.starter(name, theirs)
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

// endProcess kills a guard that is of no use. It is dead before its end of file could
// make it kill all processes.
func (g *Guard) endProcess() {
	if g.pid != 0 {
		_ = unix.Kill(g.pid, unix.SIGKILL)
	}
	if g.socket != nil {
		atomic.AddUint64(&g.closed, 1)
		_ = g.socket.Close()
		g.socket = nil
	}
	if g.pid != 0 {
		_, _, _ = fd.ReapChild(g.pid)
		g.pid = 0
	}
}
