package usernotif

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// What else a process has of a socket is found, and looking for it has bounds.
func TestFindUses(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	open := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		check(err)
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	dup := func(fd int) int {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		check(err)
		t.Cleanup(func() { _ = unix.Close(n) })
		return n
	}
	thread := uint32(unix.Getpid()) // all threads share the table
	s, other := open(), open()
	c := dup(s)
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	check(err)
	t.Cleanup(func() { _ = unix.Close(epoll) })
	for _, fd := range []int{s, c, other} {
		check(unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
	}
	u, err := new(Supervisor).findUses(thread, s, s)
	check(err)
	var numbers []int
	for _, w := range u.epolls[0].watches {
		numbers = append(numbers, w.Number)
	}
	slices.Sort(numbers)
	if !slices.Equal(u.copies, []int{c}) || len(u.epolls) != 1 || u.epolls[0].number != epoll || !slices.Equal(numbers, []int{s, c}) {
		t.Errorf("%+v, not the copy %d, and %d and it in %d", u, c, s, epoll)
	}
	// Another socket is at the number by now: its copies are not those of the one that is bound.
	if u, err := new(Supervisor).findUses(thread, s, other); err != nil || len(u.copies) != 1 || u.copies[0] != other || len(u.epolls[0].watches) != 1 || u.epolls[0].watches[0].Number != other {
		t.Errorf("of a number that has another socket: %+v, %v", u, err)
	}
	if _, err := new(Supervisor).findUses(thread, s, -1); err == nil {
		t.Error("nothing is wrong with no descriptor")
	}
	checkBounds(t, s, func() { dup(s) })
}

// checkBounds looks for what is too much.
func checkBounds(t *testing.T, s int, another func()) {
	t.Helper()
	thread := uint32(unix.Getpid())
	many := Supervisor{scans: mostScans}
	if _, err := many.findUses(thread, s, s); !errors.Is(err, errManyUses) {
		t.Errorf("after %d tables: %v", mostScans, err)
	}
	for range mostUses {
		another()
	}
	if _, err := new(Supervisor).findUses(thread, s, s); !errors.Is(err, errManyUses) {
		t.Errorf("of %d copies: %v", mostUses+1, err)
	}
}
