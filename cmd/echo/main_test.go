package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/ktest"
)

// helperVariable makes the test binary the program itself: "activated" with
// the descriptors at 3 and up for itself, "raw" with the environment as it is.
const helperVariable = "ECHO_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVariable) {
	case "activated":
		env, err := fdpass.MakeEnviron(strings.Split(os.Getenv("TEST_NAMES"), ":"), os.Getpid(), -1)
		if err != nil {
			panic(err)
		}
		for _, entry := range env {
			name, value, _ := strings.Cut(entry, "=")
			if err := os.Setenv(name, value); err != nil {
				panic(err)
			}
		}
		fallthrough
	case "raw":
		os.Exit(runServer(os.Args[1:]))
	}
	ktest.Main(m)
}

// waitTimeout is how long a test waits for what must happen.
const waitTimeout = 5 * time.Minute

// process is a running echo.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout transcript
	stderr transcript
	ended  chan struct{}
}

// transcript collects what a process writes.
type transcript struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// await waits until the process has written text.
func (p *process) await(l *transcript, text string) {
	p.t.Helper()
	deadline := time.After(waitTimeout)
	for !strings.Contains(l.String(), text) {
		select {
		case <-l.changed:
		case <-deadline:
			p.t.Fatalf("%q is not in:\n%s", text, l)
		}
	}
}

// start runs echo with the files passed in; they stay the test's.
func start(t *testing.T, files []*os.File, args ...string) *process {
	t.Helper()
	names := make([]string, len(files))
	return startWith(t, []string{helperVariable + "=activated", "TEST_NAMES=" + strings.Join(names, ":")}, files, args...)
}

func startWith(t *testing.T, env []string, files []*os.File, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command("/proc/self/exe", args...), ended: make(chan struct{})}
	p.stdout.changed, p.stderr.changed = make(chan struct{}, 1), make(chan struct{}, 1)
	p.cmd.Env = append(os.Environ(), append(env, "GORACE=atexit_sleep_ms=0")...)
	p.cmd.ExtraFiles = files
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.ended
	})
	return p
}

// terminate sends SIGTERM.
func (p *process) terminate() {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
}

// exit waits for the end and asserts the exit code.
func (p *process) exit(code int) {
	p.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(waitTimeout):
		p.t.Fatalf("still running:\n%s", &p.stderr)
	}
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Fatalf("%v, want exit code %d:\n%s", p.cmd.ProcessState, code, &p.stderr)
	}
}

// socketFile returns a bound socket, listening where its type can, blocking as
// the activator hands it over, and its address.
func socketFile(t *testing.T, domain, socktype int, address unix.Sockaddr) (*os.File, unix.Sockaddr) {
	t.Helper()
	fd, err := unix.Socket(domain, socktype|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		ktest.Skip(t, "socket domain %d, type %d: %v", domain, socktype, err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { _ = f.Close() })
	if domain == unix.AF_INET6 {
		v6only := 1
		if a := address.(*unix.SockaddrInet6); a.Addr == [16]byte{} {
			v6only = 0
		}
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Bind(fd, address); err != nil {
		ktest.Skip(t, "bind %s: %v", describeSocket(address), err)
	}
	if socktype != unix.SOCK_DGRAM {
		if err := unix.Listen(fd, 4096); err != nil {
			t.Fatal(err)
		}
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return f, bound
}

func dial(t *testing.T, network, address string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		t.Fatal(err)
	}
	return c
}

// ask sends text over c and expects it back.
func ask(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, len(text)+1)
	for got := ""; got != text; {
		n, err := c.Read(buffer)
		if err != nil {
			t.Fatalf("%q came back of %q: %v", got, text, err)
		}
		if got += string(buffer[:n]); len(got) > len(text) {
			t.Fatalf("%q came back of %q", got, text)
		}
	}
}

// Addresses of the tests: the kernel chooses ports.
var (
	loopback4 = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	loopback6 = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
)

func abstract(t *testing.T) *unix.SockaddrUnix {
	t.Helper()
	return &unix.SockaddrUnix{Name: fmt.Sprintf("@echo-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
}

func path(t *testing.T) *unix.SockaddrUnix {
	t.Helper()
	return &unix.SockaddrUnix{Name: t.TempDir() + "/s"}
}
