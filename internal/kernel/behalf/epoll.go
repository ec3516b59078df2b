package behalf

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/process/vfork"
)

// Watch is an entry of an epoll of a process, with the descriptor's number in the process that added it.
type Watch struct {
	Epoll int // our copy of the epoll
	proc.Watch
}

// Rewatch has the entries about socket before be about socket after. An epoll knows a descriptor by its file and
// by the number that it had in the table of the caller, epoll(7). So a child of ours, with a copy of our table, has each
// socket at that number in its turn. What the process does with the entry later is about the same file and number.
//
// The process can hold up calls about its epolls, so the child has a copy of our memory, and we wait no longer than callTimeout.
func Rewatch(before, after int, watches []Watch) error {
	free, ours := 0, []int{before, after}
	for _, w := range watches {
		free, ours = max(free, w.Number+1), append(ours, w.Epoll)
	}
	above := map[int]int{} // copies that no number of theirs is in the way of
	defer func() {
		for _, n := range above {
			_ = unix.Close(n)
		}
	}()
	for _, n := range ours {
		if _, copied := above[n]; copied {
			continue
		}
		c, err := unix.FcntlInt(uintptr(n), unix.F_DUPFD_CLOEXEC, free)
		if err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		above[n] = c
	}
	list, err := vfork.New()
	if err != nil {
		return err
	}
	defer list.Close()
	step := stepsOf(list)
	addProtection(list, step)
	step("epoll_ctl")
	for _, w := range watches {
		event := unix.EpollEvent{Events: w.Events, Fd: int32(w.Data), Pad: int32(w.Data >> 32)}
		at := list.AddBytes(unsafe.Slice((*byte)(unsafe.Pointer(&event)), unsafe.Sizeof(event)))
		epoll, number := uintptr(above[w.Epoll]), uintptr(w.Number)
		list.Do(unix.SYS_DUP3, uintptr(above[before]), number, 0)
		list.Do(unix.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_DEL, number, 0).IgnoreErrors()
		list.Do(unix.SYS_DUP3, uintptr(above[after]), number, 0)
		// It may have one, of a socket that it bound before by this number.
		list.Do(unix.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_DEL, number, 0).IgnoreErrors()
		list.Do(unix.SYS_EPOLL_CTL, epoll, unix.EPOLL_CTL_ADD, number, at)
	}
	if err := startChild(list); err != nil {
		return err
	}
	return list.Failure()
}
