package usernotif

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/ktest"
)

// What the service in these tests inherits, beside 0, 1 and 2.
const (
	fdControl  = 3 // where the listener of its filter goes
	fdListener = 4 // a TCP listener of the host's
	fdAccepted = 5 // a connection of the host's that it accepted
)

// service is a process under a filter that hands connect, bind, listen and setsockopt over.
// It reads the name of an attempt a line and answers with its errno, or "ok".
func service() {
	runtime.LockOSThread()
	if err := up(); err != nil {
		fail(err)
	}
	conn := os.NewFile(fdControl, "control")
	listener, err := handOver()
	if err != nil {
		fail(err)
	}
	cookie, err := cookieHere()
	if err != nil {
		fail(err)
	}
	if err := fdpass.SendFiles(conn, fmt.Appendf(nil, "%d", cookie), []*os.File{listener}); err != nil {
		fail(err)
	}
	listener.Close()
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		name, argument, _ := strings.Cut(lines.Text(), " at ")
		if attempts[name] == nil {
			fail(fmt.Errorf("no attempt %q", name))
		}
		at = argument
		err := attempts[name]()
		if err == nil {
			fmt.Println("ok")
		} else {
			fmt.Println(err)
		}
	}
	os.Exit(0)
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

func up() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

func cookieHere() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return netnsCookie(fd)
}

// handOver installs the smallest filter there can be: four numbers.
func handOver() (*os.File, error) {
	const notify, allow = 0x7fc00000, 0x7fff0000 // SECCOMP_RET_USER_NOTIF, _ALLOW
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 4, K: unix.SYS_CONNECT},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 3, K: unix.SYS_BIND},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 2, K: unix.SYS_LISTEN},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: unix.SYS_SETSOCKOPT},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
		{Code: unix.BPF_RET | unix.BPF_K, K: notify},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	const setFilter, newListener = 1, 8 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, setFilter, newListener, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return nil, os.NewSyscallError("seccomp", errno)
	}
	return os.NewFile(fd, "listener"), nil
}

var loopback = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}

func stream(domain int) int {
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fail(err)
	}
	return fd
}

// ownPair listens on a port of the service's own and connects to it.
func ownPair() error {
	l, c := stream(unix.AF_INET), stream(unix.AF_INET)
	defer unix.Close(l)
	defer unix.Close(c)
	if err := unix.Bind(l, loopback); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(l, 5); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return err
	}
	if err := unix.Connect(c, at); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	a, _, err := unix.Accept(l)
	if err != nil {
		return err
	}
	return unix.Close(a)
}

var attempts = map[string]func() error{
	"own tcp": ownPair,
	"own tcp refused": func() error {
		c := stream(unix.AF_INET)
		defer unix.Close(c)
		return unix.Connect(c, &unix.SockaddrInet4{Port: 9, Addr: loopback.Addr})
	},
	"own udp": func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Bind(fd, loopback)
	},
	"own unix": func() error {
		l, c := stream(unix.AF_UNIX), stream(unix.AF_UNIX)
		defer unix.Close(l)
		defer unix.Close(c)
		at := &unix.SockaddrUnix{Name: "@own"}
		if err := unix.Bind(l, at); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		if err := unix.Listen(l, 5); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		if err := unix.Connect(c, at); err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		listener, err := unix.GetsockoptUcred(c, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && (int(listener.Uid) != os.Getuid() || int(listener.Gid) != os.Getgid() || listener.Pid == 0) {
			return fmt.Errorf("it is %+v who listens", *listener)
		}
		return err
	},
	"dissolve the listener":    func() error { return ktest.Dissolve(fdListener) },
	"dissolve the connection":  func() error { return ktest.Dissolve(fdAccepted) },
	"listen on the connection": func() error { return unix.Listen(fdAccepted, 5) },
	"bind the connection":      func() error { return unix.Bind(fdAccepted, loopback) },
	"listen on the listener":   func() error { return unix.Listen(fdListener, 7) },
	"no descriptor":            func() error { return unix.Listen(999, 1) },
	"no memory": func() error {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, fdListener, 16, 16)
		return errno
	},
	"a long address": func() error {
		var room [4096]byte
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, fdListener, uintptr(unsafe.Pointer(&room)), uintptr(len(room)))
		return errno
	},
	"from another thread": func() error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // a thread of its own
			done <- unix.Listen(fdListener, 7)
		}()
		return <-done
	},
	"report":                  func() error { return report(unix.SOCK_DGRAM, os.Getenv("REPORT")) },
	"report by a link":        func() error { return report(unix.SOCK_DGRAM, os.Getenv("REPORT")+".link") },
	"report where nothing is": func() error { return report(unix.SOCK_DGRAM, os.Getenv("REPORT")+".none") },
	"report as a stream":      func() error { return report(unix.SOCK_STREAM, os.Getenv("REPORT")) },
	"report somewhere else":   func() error { return report(unix.SOCK_DGRAM, "@own") },
	"blocked":                 func() error { return connectAndWait(4) },
	"many blocked":            func() error { return connectAndWait(manyBlocked) },
}

// report sends a line where services report to, by a connected socket.
func report(kind int, path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("READY=1"))
	return err
}

// supervised is a service under a supervisor.
type supervised struct {
	*Supervisor
	client  net.Conn // of the connection that the service has as fdAccepted
	t       testing.TB
	in      io.Writer
	out     *bufio.Scanner
	process *exec.Cmd
	ended   chan error // Run's
}

func supervise(t testing.TB, ctx context.Context, policy Policy) *supervised {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	s := &supervised{t: t, ended: make(chan error, 1), client: client}
	s.start(theirs, fileOf(t, l.(*net.TCPListener)), fileOf(t, accepted.(*net.TCPConn)))
	var cookie [32]byte
	var message fdpass.Receiver
	n, listener, err := message.Receive(pair[0], cookie[:])
	if err != nil || listener < 0 {
		t.Fatalf("no listener: %v", err)
	}
	if _, err := fmt.Sscan(string(cookie[:n]), &policy.Netns); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(listener, true); err != nil {
		t.Fatal(err)
	}
	supervisor, err := New(os.NewFile(uintptr(listener), "listener"), policy)
	if err != nil {
		t.Fatal(err)
	}
	s.Supervisor = supervisor
	go func() {
		s.ended <- supervisor.Run(ctx)
		supervisor.Close()
	}()
	return s
}

func fileOf(t testing.TB, c interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	f, err := c.File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// start takes files.
func (s *supervised) start(files ...*os.File) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.process = exec.Command(self)
	s.process.Env = append(os.Environ(), "INTERCEPT_TEST_SERVICE=1", "GORACE=atexit_sleep_ms=0")
	s.process.ExtraFiles, s.process.Stderr = files, os.Stderr
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_NET_ADMIN}}
	in, err := s.process.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.process.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.process.Start(); err != nil {
		s.t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
	s.in, s.out = in, bufio.NewScanner(out)
}

func (s *supervised) attempt(name string) string {
	s.t.Helper()
	if _, err := fmt.Fprintln(s.in, name); err != nil {
		s.t.Fatal(err)
	}
	if !s.out.Scan() {
		s.t.Fatalf("%s: the service is gone: %v", name, s.out.Err())
	}
	return s.out.Text()
}

// end kills the service: then nobody is left to supervise.
func (s *supervised) end() {
	s.t.Helper()
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("Run: %v", err)
		}
	case <-time.After(5 * time.Minute):
		s.t.Fatal("the supervisor outlives its service")
	}
}

func TestAnswers(t *testing.T) {
	const refused = "operation not permitted"
	for _, tt := range []struct {
		ip   bool
		want map[string]string
	}{
		{true, map[string]string{"own tcp": "ok", "own tcp refused": "connection refused", "own udp": "ok"}},
		{false, map[string]string{"own tcp": "bind: " + refused, "own tcp refused": refused, "own udp": "ok"}},
	} {
		tt.want["own unix"] = "ok"
		tt.want["dissolve the listener"] = refused
		tt.want["dissolve the connection"] = refused
		tt.want["listen on the connection"] = refused
		tt.want["bind the connection"] = refused
		tt.want["listen on the listener"] = "ok"
		tt.want["from another thread"] = "ok"
		tt.want["no descriptor"] = "bad file descriptor"
		tt.want["no memory"] = "bad address"
		tt.want["a long address"] = "invalid argument"
		s := supervise(t, t.Context(), Policy{IP: tt.ip, Unix: true})
		for name, want := range tt.want {
			if got := s.attempt(name); got != want {
				t.Errorf("ip %v: %s: %s, want %s", tt.ip, name, got, want)
			}
		}
		s.end()
	}
}

// A service that may connect nothing still reports, where it is told to.
func TestReports(t *testing.T) {
	dir, err := os.MkdirTemp("", "int")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "notify")
	heard, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer heard.Close()
	if err := os.Symlink(path, path+".link"); err != nil {
		t.Fatal(err)
	}
	node, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	t.Setenv("REPORT", path)
	for _, tt := range []struct{ allowed, attempt, want string }{
		{path, "report", "ok"},
		{path, "report as a stream", "operation not permitted"},
		{path, "report somewhere else", "operation not permitted"},
		{path, "report by a link", "operation not permitted"},
		{path + ".none", "report where nothing is", "ok"}, // it is the node that counts
		{"", "report", "operation not permitted"},
	} {
		s := supervise(t, t.Context(), Policy{Reports: []Report{{"/another", null}, {tt.allowed, node}}})
		if got := s.attempt(tt.attempt); got != tt.want {
			t.Errorf("%s, where it may report to %q: %s, want %s", tt.attempt, tt.allowed, got, tt.want)
		}
		s.end()
	}
	var b [16]byte
	if n, err := heard.Read(b[:]); err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("heard %q, %v", b[:n], err)
	}
}

// When the supervisor goes first, its service is told so and goes on.
func TestSupervisorEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := supervise(t, ctx, Policy{IP: true, Unix: true})
	if got := s.attempt("own tcp"); got != "ok" {
		t.Error(got)
	}
	cancel()
	if err := <-s.ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	if got := s.attempt("own unix"); !strings.Contains(got, "function not implemented") {
		t.Errorf("without a supervisor: %s", got)
	}
	s.ended <- nil
	s.end()
}
