package fd

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Control calls f with the descriptor of a file or a connection, which stays open
// meanwhile, and as it is: Fd would clear O_NONBLOCK.
func Control(of syscall.Conn, f func(fd int) error) error {
	conn, err := of.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if conn.Control(func(fd uintptr) { inner = f(int(fd)) }) != nil {
		return os.ErrClosed // the only way to fail; package os has another error for it here
	}
	return inner
}

// Read calls f like Control, and again whenever something may be there to read, until
// its error is not EAGAIN. It waits in the runtime's poller, which heeds a deadline.
func Read(of syscall.Conn, f func(fd int) error) error { return waitUntil(of, syscall.RawConn.Read, f) }

// Write is Read for what waits until something can be written.
func Write(of syscall.Conn, f func(fd int) error) error {
	return waitUntil(of, syscall.RawConn.Write, f)
}

func waitUntil(of syscall.Conn, until func(syscall.RawConn, func(uintptr) bool) error, f func(fd int) error) error {
	conn, err := of.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = until(conn, func(fd uintptr) bool {
		inner = RetryEINTR(func() error { return f(int(fd)) })
		return !errors.Is(inner, unix.EAGAIN)
	})
	if err != nil {
		return err
	}
	return inner
}

// DupFile is another descriptor of the same open file description. The caller closes it.
func DupFile(of syscall.Conn) (dup int, err error) {
	const lowest = 3 // not in the place of a standard stream
	dup = -1
	err = Control(of, func(fd int) (err error) {
		dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, lowest)
		return os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", err)
	})
	return dup, err
}

// RetryEINTR calls f until no signal comes in between; Go's runtime sends itself SIGURG.
// signal(7).
func RetryEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Poll waits for one of events, for limit at most (negative: for ever), and returns those that the
// descriptor has, which may be POLLERR, POLLHUP and POLLNVAL too; 0: none. ppoll(2).
func Poll(fd int, events int16, limit time.Duration) (int16, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	err := PollAny(fds, limit)
	return fds[0].Revents, err
}

// PollFile is Poll for the descriptor of a file.
func PollFile(f *os.File, events int16, limit time.Duration) (ready int16, err error) {
	err = Control(f, func(fd int) (err error) {
		ready, err = Poll(fd, events, limit)
		return err
	})
	return ready, err
}

// PollAny is Poll for several descriptors.
func PollAny(fds []unix.PollFd, limit time.Duration) error {
	deadline := time.Now().Add(limit)
	err := RetryEINTR(func() error {
		if limit < 0 {
			_, err := unix.Ppoll(fds, nil, nil)
			return err
		}
		left := unix.NsecToTimespec(int64(max(0, time.Until(deadline))))
		_, err := unix.Ppoll(fds, &left, nil)
		return err
	})
	return os.NewSyscallError("ppoll", err)
}

// ReapChild waits for the end of a child, with -1 of any, and returns which it was. wait4(2).
func ReapChild(pid int) (ended int, status unix.WaitStatus, err error) {
	err = RetryEINTR(func() (err error) {
		ended, err = unix.Wait4(pid, &status, 0, nil)
		return err
	})
	return ended, status, os.NewSyscallError("wait4", err)
}

// OpenLinkless opens a path in which no link may be. The caller closes the descriptor.
func OpenLinkless(path string, flags int) (int, error) {
	return openResolved(unix.AT_FDCWD, path, flags, unix.RESOLVE_NO_SYMLINKS)
}

// OpenBeneath opens a path that may not lead out of a folder, nor have a link in it. The caller closes the
// descriptor.
func OpenBeneath(folder int, path string, flags int) (int, error) {
	return openResolved(folder, path, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// OpenInRoot opens a path as one does whose / is root. The caller closes the descriptor.
func OpenInRoot(root int, path string, flags int) (int, error) {
	return openResolved(root, path, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// openResolved is openat2(2). At each ".." of a path that may not leave its folder, the kernel gives
// up if anybody renames anything meanwhile, on the whole machine. So it is asked again, within bounds.
func openResolved(at int, path string, flags int, resolve uint64) (fd int, err error) {
	const mostRenames = 10_000
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	for range mostRenames {
		err = RetryEINTR(func() (err error) {
			fd, err = unix.Openat2(at, path, &how)
			return err
		})
		if err != unix.EAGAIN {
			break
		}
	}
	return fd, err
}

// AfterFunc calls f when ctx has ended, unless stop is called before; stop waits until f has returned, if
// it is called, and says so. It is called once.
func AfterFunc(ctx context.Context, f func()) (stop func() (called bool)) {
	done := make(chan struct{})
	forget := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() bool {
		if forget() {
			return false
		}
		<-done
		return true
	}
}

// EndWith has reads, or writes, end with ctx (os.ErrDeadlineExceeded), until stop is called. set is what
// sets their deadline; afterwards there is none.
func EndWith(ctx context.Context, set func(time.Time) error) (stop func()) {
	end := AfterFunc(ctx, func() { EndNow(set) })
	return func() {
		if end() {
			_ = set(time.Time{})
		}
	}
}

// EndNow has reads, or writes, end at once, and all that come: set is what sets their deadline.
func EndNow(set func(time.Time) error) { _ = set(time.Unix(1, 0)) }
