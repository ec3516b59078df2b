package spawn

import (
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guardSocket is the guard's end of the socketpair.
const guardSocket = 3

func isGuard() bool { return len(os.Args) == 1 && os.Args[0] == GuardName }

// standGuard is the guard: it collects pidfds until the activator is gone, kills
// who is left, and never returns. Meanwhile it stands in one recvmsg(2).
func standGuard() {
	// The end of a group or a session, and a manager that stops everything in a
	// cgroup, mean the activator: its end is ours, after it, and not before.
	ignore := sigaction{handler: 1} // SIG_IGN
	for _, sig := range []uintptr{uintptr(unix.SIGHUP), uintptr(unix.SIGINT), uintptr(unix.SIGQUIT), uintptr(unix.SIGTERM)} {
		_ = sigactionOf(sig, &ignore, nil)
	}
	w := newWard(guardSocket)
	for w.receive() == nil {
	}
	if !w.orphaned {
		os.Exit(exitStage) // the activator starts another one, and tells it of everybody
	}
	w.kill()
	os.Exit(0)
}

// ward is what the guard holds. It has no collector (see stageEnv) and lives
// long, so receive allocates nothing but room for more.
type ward struct {
	held     []int32 // pidfds
	full     int     // with so many, those that have ended are looked for
	most     int     // descriptors we may have, without those of the runtime
	orphaned bool    // end of file

	socket int
	header unix.Msghdr
	data   unix.Iovec
	word   [1]byte
	rights struct { // CMSG_SPACE(sizeof(int)) on 64 bits, cmsg(3)
		unix.Cmsghdr
		fd, _ int32
	}
}

func newWard(socket int) *ward {
	w := &ward{socket: socket, full: wardMargin, most: wardMargin}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		limit.Cur = limit.Max // as the activator's own, which has more of them for each process
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
		w.most = int(min(max(limit.Max, 2*wardMargin), 1<<30)) - wardMargin
	}
	w.data.Base = &w.word[0]
	w.data.SetLen(len(w.word))
	w.header.Iov = &w.data
	w.header.SetIovlen(1)
	w.header.Control = (*byte)(unsafe.Pointer(&w.rights))
	return w
}

// wardMargin is room for some processes, and for the runtime's descriptors.
const wardMargin = 32

// receive takes in one pidfd. Any error is the end; that of file sets orphaned.
func (w *ward) receive() error {
	if len(w.held) >= min(w.full, w.most) {
		w.forget()
	}
	w.header.SetControllen(int(unsafe.Sizeof(w.rights)))
	n, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(w.socket), uintptr(unsafe.Pointer(&w.header)), unix.MSG_CMSG_CLOEXEC)
	switch {
	case errno == unix.EINTR:
		return nil
	case errno != 0:
		return errno
	case n == 0:
		w.orphaned = true
		return os.ErrClosed
	case int(w.header.Controllen) < unix.CmsgLen(4) || w.rights.Type != unix.SCM_RIGHTS:
		return unix.EMFILE // the descriptor has been dropped, recvmsg(2), MSG_CTRUNC
	}
	w.held = append(w.held, w.rights.fd)
	return nil
}

// forget closes the pidfds of processes that have been reaped: only then is
// there nobody to signal any more.
func (w *ward) forget() {
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
// once. The parent-death signal spares nobody, but it is not for us to add to it.
const (
	killAtOnce = 64
	killPause  = 100 * time.Millisecond
)

// kill kills everybody, some at a time.
func (w *ward) kill() {
	for some := range slices.Chunk(w.held, killAtOnce) {
		for _, fd := range some {
			_ = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
		}
		deadline := time.Now().Add(killPause)
		for _, fd := range some {
			_ = awaitEnd(int(fd), deadline)
		}
	}
}

// awaitEnd waits for the end of a process, by its pidfd.
func awaitEnd(pidfd int, deadline time.Time) error {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		left := max(time.Until(deadline).Milliseconds(), 0)
		n, err := unix.Poll(poll, int(left))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("poll", err)
		case n == 0:
			return os.ErrDeadlineExceeded
		default:
			return nil
		}
	}
}
