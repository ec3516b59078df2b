package fd

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// pipe is a pipe that the runtime polls.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

func readByte(r *os.File) error {
	var b [1]byte
	return Read(r, func(fd int) error {
		_, err := unix.Read(fd, b[:])
		return err
	})
}

func TestReadWaits(t *testing.T) {
	r, w := pipe(t)
	asked, read := make(chan struct{}), make(chan error, 1)
	calls := 0
	go func() {
		read <- Read(r, func(fd int) error {
			if calls++; calls == 1 {
				close(asked)
				return unix.EINTR // a signal, before anything
			}
			var b [1]byte
			_, err := unix.Read(fd, b[:])
			return os.NewSyscallError("read", err)
		})
	}()
	<-asked
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := readByte(r); err == nil {
		t.Error("read of what is closed")
	}
	if err := Control(r, func(int) error { return nil }); err != os.ErrClosed {
		t.Errorf("control of what is closed: %v", err)
	}
}

// It ends with its context, and the next one is not touched by that.
func TestEndWith(t *testing.T) {
	r, w := pipe(t)
	ctx, cancel := context.WithCancel(context.Background())
	stop := EndWith(ctx, r.SetReadDeadline)
	time.AfterFunc(10*time.Millisecond, cancel)
	if err := readByte(r); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
	stop()
	stop = EndWith(context.Background(), r.SetReadDeadline)
	time.AfterFunc(10*time.Millisecond, func() { _, _ = w.Write([]byte("x")) })
	if err := readByte(r); err != nil {
		t.Error(err)
	}
	stop()
}

func TestAfterFunc(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	if AfterFunc(ctx, func() { t.Error("called") })() {
		t.Error("called, it says")
	}
	begun, done := make(chan struct{}), false
	stop := AfterFunc(ctx, func() {
		close(begun)
		time.Sleep(10 * time.Millisecond)
		done = true
	})
	cancel()
	<-begun
	if !stop() || !done {
		t.Error("it has not been waited for")
	}
}

func TestPoll(t *testing.T) {
	r, w := pipe(t)
	began := time.Now()
	if events, err := PollFile(r, unix.POLLIN, 20*time.Millisecond); events != 0 || err != nil || time.Since(began) < 20*time.Millisecond {
		t.Errorf("%#x, %v after %v", events, err, time.Since(began))
	}
	if events, err := PollFile(w, unix.POLLOUT, 0); events != unix.POLLOUT || err != nil {
		t.Errorf("%#x, %v", events, err)
	}
	time.AfterFunc(10*time.Millisecond, func() { _ = w.Close() })
	if events, err := PollFile(r, unix.POLLIN, -1); events != unix.POLLHUP || err != nil {
		t.Errorf("%#x, %v", events, err)
	}
	if _, err := PollFile(w, 0, 0); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestReap(t *testing.T) {
	process, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "exit 7"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	pid, status, err := ReapChild(process.Pid)
	if pid != process.Pid || status.ExitStatus() != 7 || err != nil {
		t.Errorf("%d, %v, %v", pid, status, err)
	}
	if _, _, err := ReapChild(process.Pid); !errors.Is(err, unix.ECHILD) {
		t.Error(err)
	}
	_ = process.Release()
}

// What each way of opening refuses.
func TestOpenResolved(t *testing.T) {
	dir := tree(t, "in/file", "in/link>file", "in/folder/", "in/out>../../outside", "in/top>/file", "outside")
	root, err := unix.Open(dir+"/in", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	beneath := func(path string) (int, error) { return OpenBeneath(root, path, unix.O_PATH) }
	inRoot := func(path string) (int, error) { return OpenInRoot(root, path, unix.O_PATH) }
	linkless := func(path string) (int, error) { return OpenLinkless(dir+"/in/"+path, unix.O_PATH) }
	for _, test := range []struct {
		name, path string
		open       func(path string) (int, error)
		want       error
	}{
		{"beneath", "file", beneath, nil},
		{"beneath", "link", beneath, unix.ELOOP},
		{"beneath", "../outside", beneath, unix.EXDEV},
		{"beneath", "/file", beneath, unix.EXDEV},
		{"in root", "/file", inRoot, nil},
		{"in root", "link", inRoot, nil},
		{"in root", "top", inRoot, nil},
		{"in root", "../../file", inRoot, nil},
		{"in root", "out", inRoot, unix.ENOENT},
		{"linkless", "file", linkless, nil},
		{"linkless", "../outside", linkless, nil},
		{"linkless", "link", linkless, unix.ELOOP},
		{"linkless", "top", linkless, unix.ELOOP},
	} {
		fd, err := test.open(test.path)
		if err != test.want {
			t.Errorf("%s: %s: %v", test.name, test.path, err)
		}
		if err != nil {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
		_ = unix.Close(fd)
	}
}

// Elsewhere somebody renames all the time.
func TestOpenResolvedWhileOthersRename(t *testing.T) {
	dir := tree(t, "in/deep/file", "elsewhere/a/", "elsewhere/b/")
	root, err := unix.Open(dir+"/in", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(root)
	defer ktest.Exchange(t, dir+"/elsewhere/a", dir+"/elsewhere/b")()
	const up = "deep/../deep/../deep/../deep/../deep/file"
	for range 20_000 {
		fd, err := OpenBeneath(root, up, unix.O_PATH)
		if err != nil {
			t.Fatal(err)
		}
		_ = unix.Close(fd)
	}
}

func TestDup(t *testing.T) {
	r, _ := pipe(t)
	number, err := DupFile(r)
	if err != nil || number < 3 {
		t.Fatal(number, err)
	}
	defer unix.Close(number)
	if flags, err := unix.FcntlInt(uintptr(number), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}
