package notify

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// open returns a Socket bound to address, "/path" or "@abstract", and says
// where in NOTIFY_SOCKET.
func open(t *testing.T, address string) *Socket {
	t.Helper()
	s, err := AdoptSocket(bound(t, unix.SOCK_DGRAM, address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	t.Setenv(variable, address)
	return s
}

func bound(t *testing.T, kind int, address string) *os.File {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), "bound")
}

func path(t *testing.T) string { return filepath.Join(t.TempDir(), "notify") }

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestSendAndReceive(t *testing.T) {
	abstract := "@activator-notify-test-" + filepath.Base(t.TempDir()) + "-" + time.Now().Format("150405.000000000")
	for _, address := range []string{path(t), abstract} {
		s := open(t, address)
		if err := SendState("READY=1\nSTATUS=up"); err != nil {
			t.Fatal(err)
		}
		m, pid, err := s.Receive(within(t))
		if want := (Message{Ready: true, HasStatus: true, Status: "up"}); m != want || pid != os.Getpid() || err != nil {
			t.Errorf("%s: got %+v from %d, %v", address, m, pid, err)
		}
	}
}

// TestReceiveFromAnotherProcess: the pid is the sender's, also when it is gone.
func TestReceiveFromAnotherProcess(t *testing.T) {
	s := open(t, path(t))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"=READY=1\nMAINPID=12", "GORACE=atexit_sleep_ms=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m, pid, err := s.Receive(within(t))
	if m != (Message{Ready: true, MainPID: 12}) || pid != cmd.Process.Pid || err != nil {
		t.Errorf("got %+v from %d (want %d), %v", m, pid, cmd.Process.Pid, err)
	}
}

func TestSendErrors(t *testing.T) {
	t.Setenv(variable, "")
	if err := SendState("READY=1"); err != nil {
		t.Errorf("nobody wants to know: %v", err)
	}
	for _, address := range []string{"/nonexistent/socket", "relative", "vsock:2:1", "/" + strings.Repeat("x", 108)} {
		t.Setenv(variable, address)
		if err := SendState("READY=1"); err == nil || !strings.Contains(err.Error(), variable+"="+address) {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestBarrier: closing the descriptor that came with a message answers it.
func TestBarrier(t *testing.T) {
	for _, data := range []string{"BARRIER=1", "READY=1", strings.Repeat("x", 10000), "a\x00b"} {
		s := open(t, path(t))
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		sendWith(t, s, data, w, w, w)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if m, _, err := s.Receive(within(t)); m.Barrier != (data == "BARRIER=1") {
			t.Errorf("got %+v, %v", m, err)
		}
		// All ends must be closed by now, or this would wait.
		if err := r.SetReadDeadline(time.Now().Add(5 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the barrier holds: %d, %v", n, err)
		}
		_ = r.Close()
	}
}

func sendWith(t *testing.T, s *Socket, data string, files ...*os.File) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	var oob []byte
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if fds != nil {
		oob = unix.UnixRights(fds...)
	}
	if err := unix.Sendmsg(fd, []byte(data), oob, &unix.SockaddrUnix{Name: os.Getenv(variable)}, 0); err != nil {
		t.Fatal(err)
	}
}

// TestBadMessagesDoNotEndTheSocket: each is reported, the next one is received.
func TestBadMessagesDoNotEndTheSocket(t *testing.T) {
	s := open(t, path(t))
	longest := append([]byte("READY=1\n"), bytes.Repeat([]byte("x"), maxMessage-8)...)
	for _, data := range []string{strings.Repeat("x", maxMessage+2), string(longest) + "x", "MAINPID=x", "a\x00b"} {
		sendWith(t, s, data)
		var bad *BadMessage
		if m, pid, err := s.Receive(within(t)); m != (Message{}) || pid != os.Getpid() || !errors.As(err, &bad) {
			t.Errorf("%.20q: got %+v from %d, %v", data, m, pid, err)
		}
	}
	for _, data := range []string{string(longest), string(longest) + "\x00"} {
		sendWith(t, s, data)
		if m, _, err := s.Receive(within(t)); m != (Message{Ready: true}) || err != nil {
			t.Errorf("longest: %+v, %v", m, err)
		}
	}
	sendWith(t, s, "")
	if m, _, err := s.Receive(within(t)); m != (Message{}) || err != nil {
		t.Errorf("empty: %+v, %v", m, err)
	}
}

// TestReceiveEnds by its context, which leaves the socket whole, and by Close.
func TestReceiveEnds(t *testing.T) {
	s := open(t, path(t))
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, _, err := s.Receive(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		if err := SendState("READY=1"); err != nil {
			t.Fatal(err)
		}
		if m, _, err := s.Receive(within(t)); !m.Ready || err != nil {
			t.Fatalf("after a cancelled Receive: %+v, %v", m, err)
		}
	}
	ended := make(chan error)
	go func() {
		_, _, err := s.Receive(context.Background())
		ended <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestAdoptRefuses(t *testing.T) {
	if _, err := AdoptSocket(bound(t, unix.SOCK_STREAM, path(t))); err == nil {
		t.Error("a stream socket is no notify socket")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if _, err := AdoptSocket(r); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("a pipe: %v", err)
	}
	if _, err := AdoptSocket(r); err == nil {
		t.Error("a closed file is no notify socket")
	}
}

// What comes with a message is received only when it is asked for; and what has come before the end is there.
func TestReceiveFiles(t *testing.T) {
	s := open(t, path(t))
	s.TakeFiles()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		sendWith(t, s, "FDSTORE=1", r, w)
	}
	w.Close()
	m, fds, pid, err := s.ReceiveFiles(within(t))
	if !m.Store || len(fds) != 2 || pid != os.Getpid() || err != nil {
		t.Fatalf("got %+v, %d descriptors from %d, %v", m, len(fds), pid, err)
	}
	closeAll(fds)
	m, fds, found, err := s.ReceiveLeft()
	if !m.Store || len(fds) != 2 || !found || err != nil {
		t.Errorf("left: %+v, %d descriptors, %v, %v", m, len(fds), found, err)
	}
	closeAll(fds)
	if _, _, found, err := s.ReceiveLeft(); found || err != nil {
		t.Errorf("something is left: %v", err)
	}
	if n, err := r.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("a descriptor is open still")
	}
}
