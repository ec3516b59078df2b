package udprelay

import (
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
)

// hostSlot is the host's socket in an event, wakeSlot the call to wake up.
const (
	hostSlot = -1
	wakeSlot = -2
)

// poller is an epoll for the sockets of a relay. Its loop sleeps in it for a while after datagrams have come,
// so that it wakes up without the scheduler. Later the runtime waits for the epoll itself to become
// readable, see epoll(7) on nesting: then no thread is kept. Between the two is another epoll, since what is in
// the runtime's poller stays there, and would wake the runtime up besides us.
type poller struct {
	file   *os.File // the outer epoll, in the runtime's poller
	conn   syscall.RawConn
	outer  int  // its number
	parked bool // the outer epoll watches the inner one
	fd     int  // the inner epoll
	wake   int  // eventfd(2)
	waiter epoll.Waiter
	events []unix.EpollEvent
	found  int // events
	err    error
	armed  time.Time // the deadline of file
}

func openPoller() (p *poller, err error) {
	p = &poller{outer: -1, fd: -1, wake: -1, events: make([]unix.EpollEvent, 256)}
	defer func() {
		if err != nil {
			_ = p.close()
		}
	}()
	if p.fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	p.waiter.Epoll = int32(p.fd)
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	if err = p.watchSocket(p.wake, wakeSlot, 0, unix.EPOLLIN); err != nil {
		return nil, err
	}
	if p.outer, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if err = unix.EpollCtl(p.outer, unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{}); err != nil {
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	// os.NewFile puts only non-blocking files into the runtime's poller.
	if err = unix.SetNonblock(p.outer, true); err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	p.file = os.NewFile(uintptr(p.outer), "epoll")
	if p.conn, err = p.file.SyscallConn(); err == nil {
		err = p.clearDeadline()
	}
	return p, err
}

func (p *poller) close() (err error) {
	closeAll(slices.DeleteFunc([]int{p.fd, p.wake}, func(fd int) bool { return fd < 0 }))
	if p.file != nil {
		return p.file.Close()
	}
	if p.outer >= 0 {
		err = unix.Close(p.outer)
	}
	return err
}

// park has the runtime told of events, or not.
func (p *poller) park(on bool) {
	if p.parked == on {
		return
	}
	p.parked = on
	e := unix.EpollEvent{}
	if on {
		e.Events = unix.EPOLLIN
	}
	_ = unix.EpollCtl(p.outer, unix.EPOLL_CTL_MOD, p.fd, &e) // never fails: it is there
}

// watchSocket adds a descriptor, edge-triggered: each of them is read until it has no more.
func (p *poller) watchSocket(fd int, slot, generation int32, events uint32) error {
	e := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: slot, Pad: generation}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e))
}

// lookForEvents asks for events, as the runtime's poller wants it: true when done.
func (p *poller) lookForEvents(uintptr) bool {
	n, e := p.waiter.Look(p.events)
	p.noteFound(n, e)
	return p.found != 0 || p.err != nil
}

// sleepForEvents waits for events here, as long as limit says.
func (p *poller) sleepForEvents(limit func() int) {
	n, e := p.waiter.Wait(p.events, limit)
	p.noteFound(n, e)
}

func (p *poller) noteFound(n int, e unix.Errno) {
	p.found, p.err = n, nil
	if e != 0 && e != unix.EINTR {
		p.err = e
	}
}

// armDeadline sets the deadline, if the one that there is would come too late. One that
// comes too early costs less than to set it anew for every datagram.
func (p *poller) armDeadline(t, now time.Time) {
	if p.armed.Equal(t) || !p.armed.IsZero() && p.armed.After(now) && (t.IsZero() || t.After(p.armed)) {
		return
	}
	_ = p.file.SetReadDeadline(t)
	p.armed = t
}

// clearDeadline takes the deadline away.
func (p *poller) clearDeadline() error {
	p.armed = time.Time{}
	return p.file.SetReadDeadline(p.armed)
}

// interruptWait ends a wait for events. Any goroutine may call it, but not while another one
// closes the poller.
func (p *poller) interruptWait() {
	one := [8]byte{1} // in either order of bytes more than nothing
	_, _ = unix.Write(p.wake, one[:])
}
