package epoll

import (
	"encoding/binary"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Loop is an epoll and the thread that waits for it. One goroutine may be in Wait;
// the other methods may be called from any.
type Loop struct {
	epoll  int
	bell   int // an eventfd: Wait returns
	events []unix.EpollEvent
	told   []Event

	lock  uint32 // atomic, not by methods, which split the stack under the race detector; 1: taken
	slots []slot // this and below, with the lock; the first is the bell's
	free  []int
}

// ID is a descriptor in a loop; 0: none.
type ID uint64

// slot is what an ID stands for.
type slot struct {
	serial uint32 // of the use of this slot, against events of the one before
	by     int32  // which of its fast path's descriptors it is
	path   *FastPath
}

// Event says that a descriptor is readable.
type Event struct {
	ID       ID
	Answered bool // by its fast path, at least a moment ago
}

// NewLoop makes a loop.
func NewLoop() (*Loop, error) {
	l := &Loop{epoll: -1, bell: -1, events: make([]unix.EpollEvent, 128), slots: make([]slot, 1)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		l.Close()
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.bell, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
		l.Close()
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	return l, nil
}

// lockSpin waits for the lock; its holder gives it back in no time.
func (l *Loop) lockSpin() {
	for !atomic.CompareAndSwapUint32(&l.lock, 0, 1) {
		runtime.Gosched()
	}
}

func (l *Loop) unlockSpin() { atomic.StoreUint32(&l.lock, 0) }

// NewID returns an ID that is nothing's yet, until Free.
func (l *Loop) NewID() ID {
	l.lockSpin()
	defer l.unlockSpin()
	if n := len(l.free); n > 0 {
		i := l.free[n-1]
		l.free = l.free[:n-1]
		return ID(i) | ID(l.slots[i].serial)<<32
	}
	l.slots = append(l.slots, slot{})
	return ID(len(l.slots) - 1)
}

// FreeID gives an ID back. Events of it may still come, and are ignored. What it
// was registered for must have been removed.
func (l *Loop) FreeID(id ID) {
	l.lockSpin()
	defer l.unlockSpin()
	i := int(uint32(id))
	l.slots[i] = slot{serial: l.slots[i].serial + 1}
	l.free = append(l.free, i)
}

// Control is epoll_ctl(2) of a file.
func (l *Loop) Control(op int, file *os.File, id ID, events uint32) error {
	return fd.Control(file, func(fd int) error {
		event := unix.EpollEvent{Events: events, Fd: int32(id), Pad: int32(id >> 32)}
		return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, op, fd, &event))
	})
}

// ArmFastPath has r carried out when one of the descriptors is readable, once. Lends r,
// until Disarm.
func (l *Loop) ArmFastPath(r *FastPath, ids ...ID) {
	l.lockSpin()
	defer l.unlockSpin()
	for n, id := range ids {
		if i := int(uint32(id)); id != 0 && l.slots[i].serial == uint32(id>>32) {
			l.slots[i].path, l.slots[i].by = r, int32(n)
		}
	}
	r.armed = !r.fired
}

// DisarmFastPath ends that. It reports whether r has been carried out, for which of the
// descriptors, and when.
func (l *Loop) DisarmFastPath(r *FastPath, ids ...ID) (by int, at time.Time, fired bool) {
	l.lockSpin()
	defer l.unlockSpin()
	r.armed = false
	r.closePaths()
	for _, id := range ids {
		if i := int(uint32(id)); l.slots[i].path == r {
			l.slots[i].path = nil
		}
	}
	if !r.fired {
		return 0, time.Time{}, false
	}
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return int(r.by), time.Now().Add(time.Duration(r.at - now.Nano())), true
}

// WakeUp makes Wait return, now or when it is called next.
func (l *Loop) WakeUp() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	_, _ = unix.Write(l.bell, one[:])
}

// Close closes the epoll. No goroutine is in Wait.
func (l *Loop) Close() {
	for _, fd := range []*int{&l.epoll, &l.bell} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}
