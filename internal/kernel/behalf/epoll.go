package behalf

import (
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
)

// Watch is an entry of an epoll of a process.
type Watch struct {
	Epoll  int // our copy of the epoll
	Number int // the descriptor's in the process that added it
	Events uint32
	Data   uint64
}

// Rewatch has the entries about socket before be about socket after. An epoll knows a descriptor by its file and
// by the number that it had in the table of the caller, epoll(7). So a child of ours, with a copy of our table, has each
// socket at that number in its turn. What the process does with the entry later is about the same file and number.
//
// The process can hold up calls about its epolls, so the child has a copy of our memory, and we wait no longer than callTimeout.
func Rewatch(before, after int, watches []Watch) error {
	free := 0
	for _, w := range watches {
		free = max(free, w.Number+1)
	}
	above := map[int]int{} // copies that no number of theirs is in the way of
	defer func() {
		for _, n := range above {
			_ = unix.Close(n)
		}
	}()
	for _, n := range append([]int{before, after}, epollsOf(watches)...) {
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
	list.Do(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	list.ExplainNext(func(errno unix.Errno) error { return os.NewSyscallError("epoll_ctl", errno) })
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
	if err := list.Finish(); err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, pidfd, err := list.Start(0)
	if err != nil {
		return err
	}
	if err := waitFor(pid, pidfd, callTimeout); err != nil {
		return err
	}
	return list.Failure()
}

// epollsOf lists each epoll once.
func epollsOf(watches []Watch) (epolls []int) {
	seen := map[int]bool{}
	for _, w := range watches {
		if !seen[w.Epoll] {
			seen[w.Epoll] = true
			epolls = append(epolls, w.Epoll)
		}
	}
	return epolls
}
