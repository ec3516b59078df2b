package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/notify"
)

func TestOptions(t *testing.T) {
	standard := options{drain: 5 * time.Second}
	tests := []struct {
		args []string
		want options
	}{
		{nil, standard},
		{[]string{"-d", "-s"}, options{debug: true, sdnotify: true, drain: 5 * time.Second}},
		{[]string{"--debug", "--sdnotify", "--start-sleep", "2"}, options{debug: true, sdnotify: true, startSleep: 2 * time.Second, drain: 5 * time.Second}},
		{[]string{"-t", "300ms", "--drain", "0", "--exit-after=20"}, options{startSleep: 300 * time.Millisecond, exitAfter: 20}},
		{[]string{"--version"}, options{version: true, drain: 5 * time.Second}},
	}
	for _, tt := range tests {
		if got, err := parseOptions(tt.args); got != tt.want || err != nil {
			t.Errorf("%q: got %+v, %v", tt.args, got, err)
		}
	}
	for _, bad := range [][]string{{"-x"}, {"extra"}, {"-t"}, {"-t", "soon"}, {"-t", "-1"}, {"--drain", "-1s"}, {"--exit-after", "-1"}, {"-t", "99999999999999"}} {
		if _, err := parseOptions(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestExitCodes(t *testing.T) {
	raw := []string{helperVariable + "=raw", "LISTEN_FDS=", "LISTEN_PID="}
	p := startWith(t, raw, nil, "--version")
	p.exit(exitOK)
	if !strings.HasPrefix(p.stdout.String(), "echo ") {
		t.Errorf("got %q", p.stdout.String())
	}
	p = startWith(t, raw, nil, "--help")
	p.exit(exitOK)
	if p.stdout.String() != usage {
		t.Errorf("got %q", p.stdout.String())
	}
	p = startWith(t, raw, nil, "--nonsense")
	p.exit(exitUsage)
	p.await(&p.stderr, "nonsense")
}

func TestWrongActivation(t *testing.T) {
	for _, tt := range []struct{ env, text string }{
		{"", "start it by: activator --config configs/echo.toml"},
		{"LISTEN_FDS=1 LISTEN_PID=1", "LISTEN_PID=1 is not this process ("},
		{"LISTEN_FDS=three LISTEN_PID={pid}", "LISTEN_FDS=three "},
	} {
		env := []string{helperVariable + "=raw"}
		p := startWith(t, append(env, strings.Fields(tt.env)...), nil)
		p.exit(exitError)
		if strings.Contains(tt.env, "{pid}") {
			tt.text = "LISTEN_PID={pid} is not a process id"
		}
		p.await(&p.stderr, tt.text)
	}
}

// TestUnsupported: one descriptor that cannot be served, and none is.
func TestUnsupported(t *testing.T) {
	good, _ := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	open := func(domain, kind, protocol int) *os.File {
		fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for text, bad := range map[string]*os.File{
		"fd 4 (): neither a socket nor a FIFO":                     null,
		"fd 4 (): socket 0.0.0.0:0 neither listens":                open(unix.AF_INET, unix.SOCK_STREAM, 0),
		"fd 4 (): socket of domain 16, type 3, protocol 0: not su": open(unix.AF_NETLINK, unix.SOCK_RAW, 0),
	} {
		p := start(t, []*os.File{good, bad})
		p.exit(exitError)
		p.await(&p.stderr, "LISTEN_FDS=2: "+text)
	}
}

func TestNotify(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	address := path(t)
	bound, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_DGRAM, address)
	s, err := notify.AdoptSocket(bound)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	p := startWith(t, []string{helperVariable + "=activated", "TEST_NAMES=", "NOTIFY_SOCKET=" + address.Name}, []*os.File{f}, "-s")
	if m, pid, err := s.Receive(t.Context()); !m.Ready || pid != p.cmd.Process.Pid || err != nil {
		t.Fatalf("got %+v from %d, %v", m, pid, err)
	}
	ask(t, dial(t, "tcp", describeSocket(at)), "hello")
	p.terminate()
	if m, _, err := s.Receive(t.Context()); !m.Stopping || err != nil {
		t.Fatalf("got %+v, %v", m, err)
	}
}

// TestStartSleep: clients wait in the queue meanwhile; a signal ends it.
func TestStartSleep(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	p := start(t, []*os.File{f}, "-d", "-t", "3600")
	c := dial(t, "tcp", describeSocket(at))
	p.await(&p.stderr, "waiting 1h0m0s before serving")
	p.terminate()
	p.exit(exitOK)
	start(t, []*os.File{f}, "-t", "10ms")
	ask(t, c, "hello")
}

// TestDrain: what is open is answered to its end, what waits in the queue is
// left to the next instance.
func TestDrain(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	g, gramAt := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	first := start(t, []*os.File{f, g}, "--drain", "1h", "-d")
	open := dial(t, "tcp", describeSocket(at))
	ask(t, open, "before")
	first.terminate()
	first.await(&first.stderr, "tcp://"+describeSocket(at)+": nothing more is taken")
	first.await(&first.stderr, "udp://"+describeSocket(gramAt)+": nothing more is taken")
	queued, gram := dial(t, "tcp", describeSocket(at)), dial(t, "udp", describeSocket(gramAt))
	if _, err := gram.Write([]byte("queued")); err != nil {
		t.Fatal(err)
	}
	ask(t, open, "while draining")
	halfClose(t, open, []byte("last"))
	first.exit(exitOK)
	start(t, []*os.File{f, g})
	ask(t, queued, "hello")
	if n, err := gram.Read(make([]byte, 16)); n != 6 || err != nil {
		t.Errorf("the datagram: %d, %v", n, err)
	}
}

func TestDrainDeadline(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	for _, end := range []string{"deadline", "second signal"} {
		drain := map[string]string{"deadline": "10ms", "second signal": "1h"}[end]
		p := start(t, []*os.File{f}, "-d", "--drain", drain)
		c := dial(t, "tcp", describeSocket(at))
		ask(t, c, "hello")
		p.terminate()
		if end == "second signal" {
			p.await(&p.stderr, "draining")
			p.terminate()
		}
		p.exit(exitOK)
		p.await(&p.stderr, "1 connections cut")
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%s: the client sees %v", end, err)
		}
	}
}

// TestExitAfter: instance after instance, every request is answered.
func TestExitAfter(t *testing.T) {
	stream, streamAt := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	gram, gramAt := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	const requests, each = 200, 20
	var clients sync.WaitGroup
	for i := range requests {
		c, d := dial(t, "tcp", describeSocket(streamAt)), dial(t, "udp", describeSocket(gramAt))
		clients.Go(func() { halfClose(t, c, []byte(fmt.Sprint("request ", i))) })
		clients.Go(func() { exchange(t, d, []byte(fmt.Sprint("request ", i))) })
	}
	done := make(chan struct{})
	go func() { defer close(done); clients.Wait() }()
	instances := 0
	for running := true; running; {
		p := start(t, []*os.File{stream, gram}, "--exit-after", fmt.Sprint(each))
		instances++
		select {
		case <-p.ended:
			p.exit(exitOK)
		case <-done:
			running = false
		}
	}
	if instances < 2 {
		t.Errorf("%d instances answered %d requests", instances, 2*requests)
	}
}

// TestExitAfterIsExact where the requests come from one queue of datagrams.
func TestExitAfterIsExact(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	c := dial(t, "udp", describeSocket(at))
	for range 7 {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []int{3, 3, 1} {
		p := start(t, []*os.File{f}, "--exit-after", "3", "-d")
		if want == 3 {
			p.exit(exitOK)
		} else {
			p.await(&p.stderr, "1 bytes to")
		}
		if got := strings.Count(p.stderr.String(), "1 bytes to"); got != want {
			t.Errorf("%d answers, want %d:\n%s", got, want, &p.stderr)
		}
	}
}

// TestOutOfDescriptors: the listener pauses, says so, and goes on.
func TestOutOfDescriptors(t *testing.T) {
	for name, kind := range map[string]int{"unix": unix.SOCK_STREAM, "unixpacket": unix.SOCK_SEQPACKET} {
		address := path(t)
		f, _ := socketFile(t, unix.AF_UNIX, kind, address)
		p := start(t, []*os.File{f})
		first := dial(t, name, address.Name)
		ask(t, first, "before")
		limit := unix.Rlimit{Cur: 24, Max: 24}
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			t.Fatal(err)
		}
		clients := make([]net.Conn, 60)
		for i := range clients {
			clients[i] = dial(t, name, address.Name)
		}
		p.await(&p.stderr, "too many open files: paused with")
		ask(t, first, "meanwhile")
		for _, c := range clients {
			ask(t, c, "each in its turn")
			_ = c.Close()
		}
		p.await(&p.stderr, "accepting again")
	}
}

// TestListenerShutDownByAnother: nothing to serve any more, so it ends, and
// whoever passed the socket can mend it.
func TestListenerShutDownByAnother(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_STREAM, loopback4)
	p := start(t, []*os.File{f}, "--drain", "10ms")
	ask(t, dial(t, "tcp", describeSocket(at)), "before")
	if err := unix.Shutdown(int(f.Fd()), unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	p.await(&p.stderr, "cut after") // the one that is open
	p.exit(exitError)
	p.await(&p.stderr, "invalid argument")
}
