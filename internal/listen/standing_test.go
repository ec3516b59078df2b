package listen

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// What is said about a replaced node is about the socket that stands there now,
// not about ours, which was bound to the same name.
func TestReplacedByLive(t *testing.T) {
	const key = "ACTIVATOR_TEST_REPLACE"
	if path := os.Getenv(key); path != "" {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("there\n")
		os.Stdin.Read(make([]byte, 1))
		l.Close()
		return
	}
	path := t.TempDir() + "/s"
	s := open(t, "unix://"+path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestReplacedByLive$")
	cmd.Env = append(os.Environ(), key+"="+path, "GORACE=atexit_sleep_ms=0")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out.Read(make([]byte, 6))
	_, err := s.MendNode()
	var occupied *OccupiedError
	if !errors.As(err, &occupied) || !occupied.Live || strings.Contains(err.Error(), "ourselves") || !strings.Contains(err.Error(), "a live socket of pid ") {
		t.Errorf("%v", err)
	}
	in.Close()
	cmd.Wait()
}

// A socket left behind with a mode that keeps out even its owner is replaced
// like any other; root is never kept out.
func TestStaleWithoutMode(t *testing.T) {
	path := t.TempDir() + "/s"
	stale(t, path)
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	s := open(t, "unix://"+path, func(o *spec.Options) { o.SocketModeSet, o.SocketMode = true, 0o444 })
	if _, err := openOne(socketSpec(t, "unix://"+path), Means{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("opened twice: %v", err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o444 {
		t.Errorf("mode of the live one: %v, %v", st.Mode(), err)
	}
	s.Close()
}

// A socket that may not be asked whether it lives is not touched, and the error
// says whose it is.
func TestSocketOfAnother(t *testing.T) {
	const key = "ACTIVATOR_TEST_ANOTHER"
	if path := os.Getenv(key); path != "" {
		_, err := openOne(socketSpec(t, "unix://"+path), Means{})
		want := path + ": a socket of uid 0, which this user may not ask whether it lives, stands there and is not removed"
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %s", err, want)
		}
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs two users") // not ktest.Skip: the suite also runs as root
	}
	dir, err := os.MkdirTemp("", "listen")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	stale(t, dir+"/s")
	if err := os.Chmod(dir+"/s", 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestSocketOfAnother$")
	cmd.Env = append(os.Environ(), key+"="+dir+"/s", "GORACE=atexit_sleep_ms=0")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if _, err := os.Lstat(dir + "/s"); err != nil {
		t.Error(err)
	}
}

// The cure of a size that is too large says nothing of owners.
func TestPipeSizeCure(t *testing.T) {
	s, err := openOne(socketSpec(t, "fifo://"+t.TempDir()+"/f", func(o *spec.Options) { o.PipeSize = 1 << 30 }), Means{})
	if err == nil {
		s.Close()
		t.Skip("CAP_SYS_RESOURCE may")
	}
	if strings.Contains(err.Error(), "CAP_CHOWN") || !strings.Contains(err.Error(), "pipe-max-size") {
		t.Error(err)
	}
}

func TestOverlaps(t *testing.T) {
	link := func(o *spec.Options) { o.Symlinks = []string{"/run/s"} }
	for _, tt := range []struct {
		a, b spec.Socket
		want bool
	}{
		{socketSpec(t, "tcp://127.0.0.1:80"), socketSpec(t, "tcp://127.0.0.1:80"), true},
		{socketSpec(t, "tcp://127.0.0.1:80"), socketSpec(t, "tcp://:80"), true},
		{socketSpec(t, "tcp://[::1]:80"), socketSpec(t, "tcp6://:80"), true},
		{socketSpec(t, "tcp://127.0.0.1:80"), socketSpec(t, "tcp://127.0.0.2:80"), false},
		{socketSpec(t, "tcp://:80"), socketSpec(t, "tcp://:81"), false},
		{socketSpec(t, "tcp://:80"), socketSpec(t, "udp://:80"), false},
		{socketSpec(t, "unix:///run/s"), socketSpec(t, "unixgram:///run/s"), true},
		{socketSpec(t, "unix:///run/s"), socketSpec(t, "fifo:///run/s"), true},
		{socketSpec(t, "unix:///run/s"), socketSpec(t, "unix:///run/t", link), true},
		{socketSpec(t, "unix:///run/t"), socketSpec(t, "unix:///run/u"), false},
		{socketSpec(t, "unix://@s"), socketSpec(t, "unixgram://@s"), false},
		{socketSpec(t, "vsock://:80"), socketSpec(t, "vsock://1:80"), true},
		{socketSpec(t, "vsock://2:80"), socketSpec(t, "vsock://1:80"), false},
		{socketSpec(t, "vsock://:80"), socketSpec(t, "tcp://:80"), false},
	} {
		if MayOverlap(tt.a, tt.b) != tt.want || MayOverlap(tt.b, tt.a) != tt.want {
			t.Errorf("%v and %v: want %v", tt.a.Address, tt.b.Address, tt.want)
		}
	}
}
