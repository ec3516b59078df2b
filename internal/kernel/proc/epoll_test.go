package proc

import (
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestListWatches(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(epoll)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: -1, Pad: 7}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(r.Fd()), &event); err != nil {
		t.Fatal(err)
	}
	want := Watch{Number: int(r.Fd()), Events: unix.EPOLLIN | unix.EPOLLET | unix.EPOLLERR | unix.EPOLLHUP, Data: 7<<32 | 0xffffffff}
	if got := ListWatches(os.Getpid(), epoll); !slices.Equal(got, []Watch{want}) {
		t.Errorf("%+v, not %+v", got, want)
	}
	if got := ListWatches(os.Getpid(), int(r.Fd())); got != nil {
		t.Errorf("%+v of a pipe", got)
	}
}

func FuzzWatchLine(f *testing.F) {
	f.Add("tfd:        5 events:       19 data: ffffffffffffffff  pos:0 ino:61af sdev:7")
	f.Fuzz(func(t *testing.T, line string) {
		if w, ok := parseWatch(line); ok && w.Number < 0 {
			t.Errorf("%q: %+v", line, w)
		}
	})
}
