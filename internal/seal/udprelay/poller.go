package udprelay

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// hostSlot is the host's socket in an event.
const hostSlot = -1

// poller is an epoll for the sockets of a relay. The runtime waits for the epoll itself to
// become readable, see epoll(7) on nesting.
type poller struct {
	file   *os.File // in the runtime's poller
	conn   syscall.RawConn
	fd     int // its number
	events []unix.EpollEvent
	found  int // events
	err    error
	armed  time.Time // the deadline of file
}

func openPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	// os.NewFile puts only non-blocking files into the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll"), fd: fd, events: make([]unix.EpollEvent, 256)}
	if p.conn, err = p.file.SyscallConn(); err == nil {
		err = p.clearDeadline()
	}
	if err != nil {
		_ = p.file.Close()
		return nil, err
	}
	return p, nil
}

// watchSocket adds a descriptor, edge-triggered: each of them is read until it has no more.
func (p *poller) watchSocket(fd int, slot, generation int32, events uint32) error {
	e := unix.EpollEvent{Events: events | unix.EPOLLET, Fd: slot, Pad: generation}
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, &e))
}

// lookForEvents asks for events, as the runtime's poller wants it: true when done.
func (p *poller) lookForEvents(uintptr) bool {
	p.err = fd.RetryEINTR(func() (err error) {
		p.found, err = unix.EpollWait(p.fd, p.events, 0)
		return err
	})
	return p.found != 0 // -1 with an error
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
func (p *poller) interruptWait() { fd.EndNow(p.file.SetReadDeadline) }
