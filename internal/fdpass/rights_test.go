package fdpass

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// pair is a socketpair of files, pollable or blocking.
func pair(t *testing.T, kind int) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b = os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func unixConn(t *testing.T, f *os.File) *net.UnixConn {
	t.Helper()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.(*net.UnixConn)
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func TestSendAndReceiveFiles(t *testing.T) {
	files, _ := socketFiles(t, MaxFiles)
	for name, kind := range map[string]int{
		"stream": unix.SOCK_STREAM, "packet": unix.SOCK_SEQPACKET, "datagram": unix.SOCK_DGRAM,
		"pollable": unix.SOCK_STREAM | unix.SOCK_NONBLOCK,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, kind)
			for _, conns := range [][2]syscall.Conn{{a, b}, {unixConn(t, a), unixConn(t, b)}} {
				for _, n := range []int{0, 1, 5, MaxFiles} {
					exchange(t, conns[0], conns[1], files[:n])
				}
			}
		})
	}
}

func exchange(t *testing.T, from, to syscall.Conn, files []*os.File) {
	t.Helper()
	if err := SendFiles(from, []byte("plan"), files); err != nil {
		t.Fatal(err)
	}
	text, got := receive(t, to, 16)
	if text != "plan" || len(got) != len(files) {
		t.Fatalf("got %q, %d files", text, len(got))
	}
	for i, f := range got {
		flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("file %d: flags %#x, %v", i, flags, err)
		}
		if inode(t, f) != inode(t, files[i]) {
			t.Errorf("file %d is another one", i)
		}
		_ = f.Close()
	}
}

// receive receives as many files as one message has.
func receive(t *testing.T, from syscall.Conn, most int) (text string, files []*os.File) {
	t.Helper()
	data, rights := make([]byte, most), make([]byte, RightsSpace(MaxFiles))
	var n, size int
	err := fd.Read(from, func(socket int) (err error) {
		n, size, _, _, err = unix.Recvmsg(socket, data, rights, unix.MSG_CMSG_CLOEXEC)
		return err
	})
	messages, bad := unix.ParseSocketControlMessage(rights[:size])
	if err = errors.Join(err, bad); err != nil {
		t.Fatal(err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, passed := range fds {
			files = append(files, os.NewFile(uintptr(passed), "passed"))
		}
	}
	return string(data[:n]), files
}

// receiveOne has a Receiver receive, n bytes at most.
func receiveOne(t *testing.T, from *os.File, most int) (text string, passed int) {
	t.Helper()
	var r Receiver
	data := make([]byte, most)
	n := 0
	err := fd.Read(from, func(socket int) (err error) {
		n, passed, err = r.Receive(socket, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:n]), passed
}

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestReceiver(t *testing.T) {
	files, _ := socketFiles(t, 5)
	for name, kind := range map[string]int{"stream": unix.SOCK_STREAM, "packet": unix.SOCK_SEQPACKET, "pollable": unix.SOCK_STREAM | unix.SOCK_NONBLOCK} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, kind)
			before := openFDs(t)
			// One comes, or none; what is too much is closed, not kept.
			for _, n := range []int{0, 1, 2, 5} {
				if err := SendFiles(a, []byte("x"), files[:n]); err != nil {
					t.Fatal(err)
				}
				text, passed := receiveOne(t, b, 16)
				if text != "x" || (passed >= 0) != (n > 0) {
					t.Fatalf("%d sent: %q, descriptor %d", n, text, passed)
				}
				if n == 0 {
					continue
				}
				flags, err := unix.FcntlInt(uintptr(passed), unix.F_GETFD, 0)
				if err != nil || flags&unix.FD_CLOEXEC == 0 {
					t.Errorf("flags %#x, %v", flags, err)
				}
				got := os.NewFile(uintptr(passed), "passed")
				if inode(t, got) != inode(t, files[0]) {
					t.Error("another file came")
				}
				_ = got.Close()
			}
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors open, %d before", after, before)
			}
		})
	}
}

// It stands in a process without a collector.
func TestReceiverAllocatesNothing(t *testing.T) {
	a, b := pair(t, unix.SOCK_SEQPACKET)
	files, _ := socketFiles(t, 1)
	const runs = 20
	for range runs + 1 {
		if err := SendFiles(a, []byte("x"), files); err != nil {
			t.Fatal(err)
		}
	}
	var r Receiver
	var word [1]byte
	err := fd.Control(b, func(socket int) error {
		n := testing.AllocsPerRun(runs, func() {
			_, passed, err := r.Receive(socket, word[:])
			if err != nil || unix.Close(passed) != nil {
				t.Errorf("descriptor %d: %v", passed, err)
			}
		})
		if n != 0 {
			t.Errorf("%v allocations a message", n)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReceiverOutOfDescriptors: the kernel drops what does not fit below RLIMIT_NOFILE.
func TestReceiverOutOfDescriptors(t *testing.T) {
	files, _ := socketFiles(t, 1)
	a, b := pair(t, unix.SOCK_STREAM)
	if err := SendFiles(a, []byte("x"), files); err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	probe, err := unix.Dup(0) // the lowest free number
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(probe)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(probe), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	text, passed := receiveOne(t, b, 1)
	if back := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); back != nil {
		t.Fatal(back)
	}
	if text != "x" || passed != -1 {
		t.Errorf("got %q, descriptor %d", text, passed)
	}
	if after, err := unix.Dup(0); err != nil || after != probe {
		t.Errorf("descriptor %d was left open (%v)", probe, err)
	} else {
		_ = unix.Close(after)
	}
}

func TestReceiverEnd(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if text, passed := receiveOne(t, b, 1); text != "" || passed != -1 {
		t.Errorf("got %q, descriptor %d", text, passed)
	}
	if err := SendFiles(b, []byte("x"), nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("got %v", err)
	}
	if err := SendFiles(b, nil, nil); err == nil {
		t.Error("no data, no error")
	}
	if err := SendFiles(b, []byte("x"), make([]*os.File, MaxFiles+1)); err == nil {
		t.Error("too many files, no error")
	}
	if err := SendFiles(b, []byte("x"), []*os.File{a}); err == nil {
		t.Error("a closed file, no error")
	}
}

// TestSendFilesLong: a stream takes a long message in pieces; the files go once.
func TestSendFilesLong(t *testing.T) {
	files, _ := socketFiles(t, 2)
	a, b := pair(t, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	long := []byte(strings.Repeat("x", 3<<20))
	sent := make(chan error, 1)
	go func() { sent <- SendFiles(a, long, files) }()
	all := 0
	var counts []int
	for all < len(long) {
		text, got := receive(t, b, 1<<16)
		if len(got) > 0 {
			counts = append(counts, len(got))
		}
		for _, f := range got {
			_ = f.Close()
		}
		all += len(text)
	}
	if err := <-sent; err != nil || !slices.Equal(counts, []int{2}) {
		t.Errorf("files came as %v, %v", counts, err)
	}
}
