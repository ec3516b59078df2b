package guard

import (
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

const (
	wardSocket = 3   // its end of the socketpair
	wardFailed = 125 // exit status of a guard that has to be replaced
)

// IsGuard reports whether this process was started as the guard.
func IsGuard() bool { return len(os.Args) == 1 && os.Args[0] == name }

// RunGuard is the guard: it collects pidfds until the activator is gone, kills
// what is left, and never returns. Meanwhile it stands in one recvmsg(2).
func RunGuard() {
	// The end of a group or a session, and a manager that stops everything in a
	// cgroup, mean the activator: its end is ours, after it, and not before.
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM)
	w := newWard(wardSocket)
	for w.receivePidfd() == nil {
	}
	if !w.orphaned {
		os.Exit(wardFailed) // the activator starts another one, and sends it all pidfds
	}
	w.killAll()
	os.Exit(0)
}

// ward is what the guard holds. It has no collector (its starter turns that off) and lives
// long, so receive allocates nothing but room for more.
type ward struct {
	held     []int32 // pidfds
	full     int     // with so many, those that have ended are looked for
	most     int     // descriptors we may have, without those of the runtime
	orphaned bool    // end of file

	socket   int
	messages fdpass.Receiver
	word     [1]byte
}

func newWard(socket int) *ward {
	w := &ward{socket: socket, full: wardMargin, most: wardMargin}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max // as the activator's own, which has more of them for each process
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		w.most = int(min(max(limit.Max, 2*wardMargin), 1<<30)) - wardMargin
	}
	return w
}

// wardMargin is room for some processes, and for the runtime's descriptors.
const wardMargin = 32

// receivePidfd takes in one pidfd. Any error is the end; that of file sets orphaned.
func (w *ward) receivePidfd() error {
	if len(w.held) >= min(w.full, w.most) {
		w.closeReaped()
	}
	n, pidfd, err := w.messages.Receive(w.socket, w.word[:])
	switch {
	case err != nil:
		return err
	case n == 0:
		w.orphaned = true
		return os.ErrClosed
	case pidfd < 0:
		return unix.EMFILE // it has been dropped, recvmsg(2), MSG_CTRUNC
	}
	w.held = append(w.held, int32(pidfd))
	return nil
}

// closeReaped closes the pidfds of processes that have been reaped: only then is
// there nothing to signal any more.
func (w *ward) closeReaped() {
	w.held = slices.DeleteFunc(w.held, func(fd int32) bool {
		if unix.PidfdSendSignal(int(fd), 0, nil, 0) != unix.ESRCH {
			return false
		}
		_ = unix.Close(int(fd))
		return true
	})
	w.full = 2*len(w.held) + wardMargin
}

// Linux 6.18 stands still for good when about a thousand seccomp filters die at
// once. The parent-death signal does that all the same, but it is not for us to add to it.
const (
	killAtOnce = 64
	killPause  = 100 * time.Millisecond
)

// killAll kills all processes, some at a time.
func (w *ward) killAll() {
	for some := range slices.Chunk(w.held, killAtOnce) {
		for _, pidfd := range some {
			_ = unix.PidfdSendSignal(int(pidfd), unix.SIGKILL, nil, 0)
		}
		deadline := time.Now().Add(killPause)
		for _, pidfd := range some {
			_, _ = fd.Poll(int(pidfd), unix.POLLIN, max(0, time.Until(deadline)))
		}
	}
}
