package tcpproxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Never one too many, and everybody is served.
func TestMaxConns(t *testing.T) {
	const most, clients = 7, 200
	var now, peak atomic.Int64
	server := serve(t, "tcp4", func(c stream) {
		n := now.Add(1)
		for p := peak.Load(); n > p && !peak.CompareAndSwap(p, n); p = peak.Load() {
		}
		_, _ = io.Copy(c, c)
		now.Add(-1) // before the proxy can know of our end
	})
	p := start(t, "tcp4", to{server.Addr()}, Options{MaxConns: most})
	var wg sync.WaitGroup
	var served atomic.Int64
	for range clients {
		wg.Go(func() {
			c := p.connect()
			if echoes(c, "", "hello") {
				served.Add(1)
			}
			if n := p.connections(); n > most {
				t.Errorf("%d connections", n)
			}
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		})
	}
	wg.Wait()
	if served.Load() != clients || peak.Load() != most {
		t.Errorf("%d of %d served, at most %d at once, want %d", served.Load(), clients, peak.Load(), most)
	}
}

// The one above the limit waits, is not dropped, and is next.
func TestMaxConnsHoldsBack(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	p := start(t, "tcp4", to{server.Addr()}, Options{MaxConns: 1})
	first, second := p.connect(), p.connect()
	if !echoes(first, "", "one") {
		t.Fatal("no echo")
	}
	_, _ = second.Write([]byte("two"))
	_ = second.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := second.Read(make([]byte, 3)); !os.IsTimeout(err) {
		t.Fatalf("the second was not held back: %v", err)
	}
	_ = second.SetReadDeadline(time.Now().Add(waitTimeout))
	_ = first.Close()
	if got := make([]byte, 3); !readsFull(second, got) || string(got) != "two" {
		t.Errorf("the second got %q", got)
	}
}

func readsFull(c net.Conn, b []byte) bool {
	_, err := io.ReadFull(c, b)
	return err == nil
}

// Nothing moves for Idle: closed. Something moves: not.
func TestIdle(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	const idle = 2 * time.Second
	p := start(t, "tcp4", to{server.Addr()}, Options{Idle: idle})
	c, still := p.connect(), p.connect()
	tick := time.NewTicker(idle / 8)
	defer tick.Stop()
	began := time.Now()
	for time.Since(began) < 3*idle {
		<-tick.C
		if !echoes(c, "", "x") {
			t.Fatal("closed though something moved")
		}
	}
	last := time.Now()
	if _, err := still.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the other: %v", err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
	if d := time.Since(last); d < idle*3/4 {
		t.Errorf("closed after %v", d)
	}
}

// A reader that takes its time is not idle: bytes move out of the kernel's queue.
func TestIdleButReading(t *testing.T) {
	const size, idle = 512 << 10, 2 * time.Second
	server := serve(t, "tcp4", func(c stream) { _ = writePattern(c, 1, size) })
	p := start(t, "tcp4", to{server.Addr()}, Options{Idle: idle})
	c := p.connect()
	_ = c.(*net.TCPConn).SetReadBuffer(8 << 10)
	tick := time.NewTicker(idle / 10)
	defer tick.Stop()
	got, b := 0, make([]byte, 16<<10)
	for {
		<-tick.C
		n, err := c.Read(b)
		if got += n; err != nil {
			if err != io.EOF || got != size {
				t.Errorf("after %d: %v", got, err)
			}
			return
		}
	}
}

// A unix socket's full queue is no reason to turn anybody away.
func TestBackendQueueFull(t *testing.T) {
	f, addr := listener(t, "unix", 0) // room for one
	p := start(t, "tcp4", to{addr}, Options{})
	var clients []stream
	for range 6 {
		c := p.connect()
		_, _ = c.Write([]byte("hi"))
		clients = append(clients, c)
	}
	become(t, "the queue is full", func() bool { return p.log.count("takes nobody") == 1 })
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range clients {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.CopyN(c, c, 2)
			})
		}
	})
	for i, c := range clients {
		if b := make([]byte, 2); !readsFull(c, b) || string(b) != "hi" {
			t.Errorf("client %d got %q", i, b)
		}
	}
	_ = l.Close()
	wg.Wait()
	if p.log.count("turned away") != 0 || p.log.count("nobody is accepted") != 0 {
		t.Error(p.log)
	}
}

// The listener comes back as it was.
func TestGivesBack(t *testing.T) {
	f, addr := listener(t, "tcp4", 8)
	look := func() (flags, delay, inline int) {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = raw.Control(func(fd uintptr) {
			flags, _ = unix.FcntlInt(fd, unix.F_GETFL, 0)
			delay, _ = readOption(int32(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY)
			inline, _ = readOption(int32(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE)
		})
		return flags & unix.O_NONBLOCK, delay, inline
	}
	p, err := New([]Route{{Listener: f, Dialer: to{addr}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if flags, delay, inline := look(); flags == 0 || delay == 0 || inline == 0 {
		t.Errorf("in use: %d %d %d", flags, delay, inline)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if flags, delay, inline := look(); flags != 0 || delay != 0 || inline != 0 {
		t.Errorf("given back: %d %d %d", flags, delay, inline)
	}
}

func TestNewRefuses(t *testing.T) {
	f, addr := listener(t, "tcp4", 8)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	deaf := os.NewFile(uintptr(fd), "deaf")
	defer deaf.Close()
	for _, c := range []struct {
		routes []Route
		o      Options
		says   string
	}{
		{nil, Options{}, "without a listener"},
		{[]Route{{Listener: f, Dialer: to{addr}}}, Options{Protocol: "v3"}, `PROXY protocol "v3" is unknown: use "v1" or "v2"`},
		{[]Route{{Listener: f, Dialer: to{addr}}, {Listener: deaf, Dialer: to{addr}}}, Options{}, "listener deaf: is not listening"},
	} {
		if _, err := New(c.routes, c.o); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %s", err, c.says)
		}
	}
}

const helperVariable = "PROXY_HELPER"

// helper is a process of its own that carries from descriptor 3 to the address in
// its arguments, with room for limit descriptors, until its stdin ends.
func helper(limit string) int {
	n, err := strconv.ParseUint(limit, 10, 32)
	if err != nil {
		panic(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		panic(err)
	}
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	target := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	p, err := New([]Route{{Listener: os.NewFile(3, "listener"), Dialer: to{target}}}, Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	if err := p.Run(ctx); err != nil {
		panic(err)
	}
	_ = p.Close()
	return 0
}

// inChild runs helper until the returned function ends it and tells its use.
func inChild(t *testing.T, limit int, target net.Addr) (p *running, pid int, end func() *os.ProcessState) {
	t.Helper()
	f, addr := listener(t, "tcp4", 512)
	p = &running{t: t, addr: addr, log: &journal{}}
	cmd := exec.Command("/proc/self/exe", strconv.Itoa(target.(*net.TCPAddr).Port))
	cmd.Env = append(os.Environ(), helperVariable+"="+strconv.Itoa(limit), "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{f}
	cmd.Stderr = p.log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceValue(func() *os.ProcessState {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper: %v\n%s", err, p.log)
		}
		return cmd.ProcessState
	})
	t.Cleanup(func() { end() })
	return p, cmd.Process.Pid, end
}

// Out of descriptors: said once, nobody is turned away, no busy loop, and it goes on.
func TestOutOfDescriptors(t *testing.T) {
	for _, limit := range []int{20, 21} { // it ends at an accept and at a dial
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
			p, _, end := inChild(t, limit, server.Addr())
			var clients []stream
			for range 20 {
				c := p.connect()
				_, _ = c.Write([]byte("hi"))
				clients = append(clients, c)
			}
			become(t, "it says that it is out of descriptors", func() bool { return p.log.count("too many open files") == 1 })
			last := clients[len(clients)-1]
			_ = last.SetReadDeadline(time.Now().Add(1500 * time.Millisecond))
			if _, err := last.Read(make([]byte, 1)); !os.IsTimeout(err) {
				t.Fatalf("the last was served at once (%v): there was room for all", err)
			}
			_ = last.SetReadDeadline(time.Now().Add(waitTimeout))
			for i, c := range clients {
				if b := make([]byte, 2); !readsFull(c, b) || string(b) != "hi" {
					t.Errorf("client %d got %q", i, b)
				}
				_ = c.Close()
			}
			become(t, "it says that it goes on", func() bool { return p.log.count("accepted again") > 0 })
			if n := p.log.count("too many open files"); n != 1 {
				t.Errorf("said %d times:\n%s", n, p.log)
			}
			state := end()
			if used := state.UserTime() + state.SystemTime(); used > 700*time.Millisecond {
				t.Errorf("it used %v of processor time", used)
			}
		})
	}
}

// An idle proxy sleeps, with connections and without.
func TestSleeps(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	p, pid, _ := inChild(t, 1000, server.Addr())
	for _, clients := range []int{0, 10} {
		for range clients {
			if !echoes(p.connect(), "", "hi") {
				t.Fatal("no echo")
			}
		}
		// The runtime's monitor needs a moment to fall asleep.
		least := 1 << 30
		for range 5 {
			before := switches(t, pid)
			time.Sleep(500 * time.Millisecond)
			least = min(least, switches(t, pid)-before)
		}
		if least != 0 {
			t.Errorf("with %d clients: woke up %d times in half a second", clients, least)
		}
	}
}

// switches is how often the threads of pid went to sleep, proc(5).
func switches(t *testing.T, pid int) (n int) {
	t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(paths) == 0 {
		t.Fatal("no threads", err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if value, ok := strings.CutPrefix(line, "voluntary_ctxt_switches:"); ok {
				i, err := strconv.Atoi(strings.TrimSpace(value))
				if err != nil {
					t.Fatal(err)
				}
				n += i
			}
		}
	}
	return n
}

// A listener that listens no more ends Run with an error.
func TestListenerLost(t *testing.T) {
	f, addr := listener(t, "tcp4", 8)
	p, err := New([]Route{{Listener: f, Dialer: to{addr}}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = syscall.Shutdown(int(fd), unix.SHUT_RDWR) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "accept: invalid argument") {
			t.Error(err)
		}
	case <-time.After(waitTimeout):
		t.Error("Run goes on")
	}
}
