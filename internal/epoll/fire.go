package epoll

import (
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What is below runs while the runtime believes its thread to be in one long system
// call: without a processor of the runtime's (a P), which other threads use
// meanwhile, and side by side with the garbage collector. So it splits no stack,
// allocates nothing and writes no pointer; what it reads is reachable otherwise,
// for as long as it has the loop's lock. gVisor does likewise (pkg/sentry/platform,
// BlockingPoll), which is why the runtime promises not to change these two.

//go:linkname entersyscall runtime.entersyscall
func entersyscall()

//go:linkname exitsyscall runtime.exitsyscall
func exitsyscall()

// Wait returns what is readable, in memory that is its own till the next call. It
// keeps its thread.
func (l *Loop) Wait() ([]Event, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	n, errno := l.waitOnce()
	if errno != 0 {
		return nil, os.NewSyscallError("epoll_wait", errno)
	}
	l.told = l.told[:0]
	for _, e := range l.events[:n] {
		id := ID(uint32(e.Fd)) | ID(uint32(e.Pad))<<32
		if id == 0 {
			var count [8]byte
			_, _ = unix.Read(l.bell, count[:])
			continue
		}
		l.told = append(l.told, Event{id, e.Events&answered != 0})
	}
	return l.told, nil
}

// waitOnce waits for events and returns how many there are in l.events. Those that a
// fast path has answered are told of later, together with others.
//
//go:norace
//go:nosplit
//go:noinline
func (l *Loop) waitOnce() (n int, errno syscall.Errno) {
	entersyscall()
	for n < len(l.events) {
		timeout := -1
		if n > 0 {
			timeout = int(tellDelay / time.Millisecond)
		}
		got, _, err := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[n])),
			uintptr(len(l.events)-n), uintptr(timeout), 0, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != 0 {
			errno = err
			break
		}
		answered := true
		for i := n; i < n+int(got); i++ {
			if !l.runFastPath(&l.events[i]) {
				answered = false
			}
		}
		n += int(got)
		if !answered || got == 0 {
			break
		}
	}
	exitsyscall()
	return n, errno
}

// tellDelay is when Wait tells what a fast path has done, unless something else happens:
// what waits for a processor now is the process that the fast path has woken.
const tellDelay = 10 * time.Millisecond

// answered marks such an event: no bit of epoll(7) that is ever reported.
const answered = uint32(1) << 31

//go:norace
//go:nosplit
func (l *Loop) runFastPath(e *unix.EpollEvent) bool {
	for tries := 0; !atomic.CompareAndSwapUint32(&l.lock, 0, 1); tries++ {
		if tries == lockTries {
			return false
		}
	}
	fired := false
	if i := int(uint32(e.Fd)); i < len(l.slots) && e.Events == unix.EPOLLIN {
		slot := &l.slots[i]
		r := slot.path
		if slot.serial == uint32(e.Pad) && r != nil && r.armed && r.sendIfSame() {
			r.armed, r.fired, r.by = false, true, slot.by
			e.Events |= answered
			fired = true
		}
	}
	atomic.StoreUint32(&l.lock, 0)
	return fired
}

// lockTries is how often the lock is tried, whose holders are done in no time,
// unless they have lost their processor.
const lockTries = 1000

// sendIfSame carries the fast path out, with the loop's lock, and reports whether it has sent.
//
//go:norace
//go:nosplit
func (r *FastPath) sendIfSame() bool {
	for i := range r.paths {
		if !r.matchPath(&r.paths[i]) {
			return false
		}
	}
	if len(r.quiet) > 0 {
		r.now = unix.Timespec{}
		n, _, err := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&r.quiet[0])), uintptr(len(r.quiet)),
			uintptr(unsafe.Pointer(&r.now)), 0, 0, 0)
		if err != 0 || n != 0 {
			return false
		}
	}
	// After the question: what was asked has been open then.
	if r.counter != nil && atomic.LoadUint64(r.counter) != r.count {
		return false
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC, uintptr(unsafe.Pointer(&r.now)), 0, 0, 0, 0)
	r.at = r.now.Sec*1e9 + r.now.Nsec
	n, _, err := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(r.to), uintptr(unsafe.Pointer(&r.word)), 1,
		unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
	return err == 0 && n == 1
}

//go:norace
//go:nosplit
func (r *FastPath) matchPath(p *path) bool {
	if p.fd != 0 {
		return false // it has been done, in vain
	}
	const here = ^uintptr(-unix.AT_FDCWD - 1)
	fd, _, err := syscall.RawSyscall6(unix.SYS_OPENAT2, here, uintptr(unsafe.Pointer(&p.name[0])),
		uintptr(unsafe.Pointer(&r.how)), unsafe.Sizeof(r.how), 0, 0)
	switch err {
	case 0:
	case syscall.ENOENT, syscall.EACCES, syscall.ENOTDIR:
		return p.want.Dev == 0 && p.want.Ino == 0
	default: // not known without waiting, mostly
		return false
	}
	p.fd = int32(fd)
	_, _, err = syscall.RawSyscall6(unix.SYS_FSTAT, fd, uintptr(unsafe.Pointer(&r.stat)), 0, 0, 0, 0)
	return err == 0 && uint64(r.stat.Dev) == p.want.Dev && r.stat.Ino == p.want.Ino && //nolint:unconvert // 32 bits elsewhere
		(p.want.Mtime.Sec == 0 && p.want.Mtime.Nsec == 0 || r.stat.Mtim == p.want.Mtime) &&
		(p.want.Ctime.Sec == 0 && p.want.Ctime.Nsec == 0 || r.stat.Ctim == p.want.Ctime)
}
