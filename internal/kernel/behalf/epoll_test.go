package behalf

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
)

// Entries go over to another socket, with their events and data, and the one who has added them can change them and take
// them out, by the number that they were added with.
func TestRewatch(t *testing.T) {
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(err)
	r, w, err := os.Pipe()
	check(err)
	defer r.Close()
	defer w.Close()
	after, err := unix.Dup(int(r.Fd()))
	check(err)
	defer unix.Close(after)
	var watches []Watch
	for i := range 3 {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		check(err)
		defer unix.Close(epoll)
		event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(-1 - i), Pad: int32(i)}
		check(unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, before, &event))
		watches = append(watches, Watch{epoll, proc.Watch{Number: before, Events: event.Events, Data: uint64(uint32(event.Fd)) | uint64(uint32(event.Pad))<<32}})
	}
	check(Rewatch(before, after, watches))
	check(unix.Dup3(after, before, unix.O_CLOEXEC)) // the file at that number is now the other one, as for a service
	defer unix.Close(before)
	_, err = w.Write([]byte("x"))
	check(err)
	for i, w := range watches {
		events := make([]unix.EpollEvent, 4)
		n, err := unix.EpollWait(w.Epoll, events, 0)
		if check(err); n != 1 || events[0].Events != unix.EPOLLIN || events[0].Fd != int32(-1-i) || events[0].Pad != int32(i) {
			t.Errorf("%d events: %+v", n, events[0])
		}
		changed := unix.EpollEvent{Events: unix.EPOLLIN, Fd: 7}
		check(unix.EpollCtl(w.Epoll, unix.EPOLL_CTL_MOD, before, &changed))
		if n, err := unix.EpollWait(w.Epoll, events, 0); err != nil || n != 1 || events[0].Fd != 7 {
			t.Errorf("%d events after a change: %+v, %v", n, events[0], err)
		}
		check(unix.EpollCtl(w.Epoll, unix.EPOLL_CTL_DEL, before, nil))
	}
	if err := Rewatch(-1, -1, []Watch{{-1, proc.Watch{Number: 5}}}); err == nil {
		t.Error("nothing is wrong with no descriptor")
	}
}
