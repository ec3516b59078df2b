package fdpass

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
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
	data := make([]byte, 16)
	n, got, err := ReceiveFiles(to, data, MaxFiles)
	if err != nil || string(data[:n]) != "plan" || len(got) != len(files) {
		t.Fatalf("got %d bytes, %d files, %v", n, len(got), err)
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

func openFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestReceiveFilesRefuses: what is too much is closed, not kept.
func TestReceiveFilesRefuses(t *testing.T) {
	files, _ := socketFiles(t, 5)
	a, b := pair(t, unix.SOCK_SEQPACKET)
	before := openFDs(t)

	if err := SendFiles(a, []byte("x"), files); err != nil {
		t.Fatal(err)
	}
	if _, got, err := ReceiveFiles(b, make([]byte, 16), 4); err == nil || got != nil {
		t.Errorf("five of four: %v, %v", got, err)
	}
	if err := SendFiles(a, []byte("too long"), files); err != nil {
		t.Fatal(err)
	}
	if _, got, err := ReceiveFiles(b, make([]byte, 3), 5); !errors.Is(err, ErrTruncated) || got != nil {
		t.Errorf("cut data: %v, %v", got, err)
	}
	if after := openFDs(t); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// TestReceiveFilesOutOfDescriptors: the kernel drops what does not fit below
// RLIMIT_NOFILE and says MSG_CTRUNC.
func TestReceiveFilesOutOfDescriptors(t *testing.T) {
	files, _ := socketFiles(t, 5)
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
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(probe) + 2, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, got, err := ReceiveFiles(b, make([]byte, 1), 5)
	if back := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); back != nil {
		t.Fatal(back)
	}
	if !errors.Is(err, ErrTruncated) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
	if after, err := unix.Dup(0); err != nil || after != probe {
		t.Errorf("descriptor %d was left open (%v)", probe, err)
	} else {
		_ = unix.Close(after)
	}
}

func TestReceiveFilesEnd(t *testing.T) {
	a, b := pair(t, unix.SOCK_STREAM|unix.SOCK_NONBLOCK)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ReceiveFiles(b, make([]byte, 1), 1); err != io.EOF {
		t.Errorf("got %v", err)
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
	var all []byte
	var counts []int
	for len(all) < len(long) {
		data := make([]byte, 1<<16)
		n, got, err := ReceiveFiles(b, data, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > 0 {
			counts = append(counts, len(got))
		}
		for _, f := range got {
			_ = f.Close()
		}
		all = append(all, data[:n]...)
	}
	if err := <-sent; err != nil || !slices.Equal(counts, []int{2}) {
		t.Errorf("files came as %v, %v", counts, err)
	}
}
