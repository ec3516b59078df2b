package security

import (
	"encoding/json"
	"errors"
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

	"activator/internal/ktest"
)

// waitTimeout bounds every wait. It is never what a test measures.
const waitTimeout = 5 * time.Minute

// observation is what is known of a service: from itself and from outside.
type observation struct {
	seen
	Outside struct {
		Status, Namespaces, Ours map[string]string // of the service, and the test's own namespaces
		HostMounts               string
		Filters                  []filter // nil: the kernel does not show them to us
		Why                      string   // why not
		Arrived                  []string // what reached the sockets of the host's network
		LeftIPC                  bool     // the System V memory is seen on the host
	}
}

func pointer[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

// canary is a TCP and a UDP socket of the host's network that no process inside may
// reach.
type canary struct {
	tcp *net.TCPListener
	udp *net.UDPConn
}

func newCanary(t *testing.T) canary {
	t.Helper()
	local := net.IPv4(127, 0, 0, 1)
	tcp, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: local})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tcp.Close() })
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: local})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	return canary{tcp: tcp, udp: udp}
}

// wordless is a client that comes by TCP fast open: what was sent along is lost, for the
// socket was shut down before.
const wordless = "a connection without a word"

// arrived says which clients came, up to a moment after the last.
func (c canary) arrived() []string {
	const moment = 300 * time.Millisecond
	var who []string
	buffer := make([]byte, 100)
	for _ = c.tcp.SetDeadline(time.Now().Add(moment)); ; {
		conn, err := c.tcp.Accept()
		if err != nil {
			break
		}
		_ = conn.SetDeadline(time.Now().Add(moment))
		n, _ := io.ReadAtLeast(conn, buffer, 1)
		conn.Close()
		if n == 0 {
			who = append(who, wordless)
			continue
		}
		who = append(who, string(buffer[:n]))
	}
	for _ = c.udp.SetDeadline(time.Now().Add(moment)); ; {
		n, err := c.udp.Read(buffer)
		if err != nil {
			break
		}
		who = append(who, string(buffer[:n]))
	}
	return who
}

// observe asks the service at addr about itself. pid tells its process, when it
// has answered.
func observe(t *testing.T, addr string, pid func() string) observation {
	t.Helper()
	var o observation
	c := newCanary(t)
	ask := request{TCP: c.tcp.Addr().String(), UDP: c.udp.LocalAddr().String(), Key: 0x5ec0000 + os.Getpid()&0xffff}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		f, err := os.CreateTemp(dir, "canary")
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { os.Remove(f.Name()) })
		ask.Files = append(ask.Files, f.Name())
	}
	var conns []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(waitTimeout))
		conns = append(conns, conn)
	}
	if err := json.NewEncoder(conns[0]).Encode(ask); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(conns[0]).Decode(&o.seen); err != nil {
		t.Fatalf("the service does not answer: %v", err)
	}
	o.outside(pid())
	o.Outside.Arrived = c.arrived()
	o.Outside.LeftIPC = strings.Contains(text("/proc/sysvipc/shm"), fmt.Sprintf(" %d ", ask.Key))
	return o
}

func (o *observation) outside(pid string) {
	o.Outside.Status, o.Outside.Namespaces, o.Outside.Ours = status(pid), namespaces(pid), namespaces("self")
	o.Outside.HostMounts = text("/proc/self/mountinfo")
	var err error
	if o.Outside.Filters, err = filters(pid); err != nil {
		o.Outside.Why = err.Error()
	}
}

// filters reads the seccomp filters of a process, which the kernel shows to
// CAP_SYS_ADMIN (PTRACE_SECCOMP_GET_FILTER in ptrace(2)).
func filters(process string) (found []filter, err error) {
	var pid int
	if _, err := fmt.Sscan(process, &pid); err != nil {
		return nil, err
	}
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, os.NewSyscallError("ptrace", err)
	}
	defer func() { err = errors.Join(err, os.NewSyscallError("ptrace", unix.PtraceDetach(pid))) }()
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, os.NewSyscallError("ptrace", err)
	}
	var stopped unix.WaitStatus
	if _, err := unix.Wait4(pid, &stopped, unix.WALL, nil); err != nil {
		return nil, os.NewSyscallError("wait4", err)
	}
	found = []filter{}
	for index := uintptr(0); ; index++ {
		count, _, errno := syscall.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), index, 0, 0, 0)
		if errno == unix.ENOENT || errno == unix.EINVAL && index == 0 { // no more; not filtered at all
			return found, nil
		}
		if errno == 0 {
			f := make(filter, count)
			_, _, errno = syscall.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), index, pointer(&f[0]), 0, 0)
			found = append(found, f)
		}
		if errno != 0 {
			return nil, os.NewSyscallError("ptrace", errno)
		}
	}
}

// program is the path of a built program: in $ACTIVATOR_BIN, or ../../bin.
func program(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("ACTIVATOR_BIN")
	if dir == "" {
		dir = filepath.Join("..", "..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("%v: build it first: make", err)
	}
	return path
}

// inSandbox observes a service of the built activator with the given [sandbox].
func inSandbox(t *testing.T, sandbox string) observation {
	t.Helper()
	ktest.Filters(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	config := filepath.Join(t.TempDir(), "score.toml")
	err = os.WriteFile(config, fmt.Appendf(nil, "[[socket]]\nlisten = [\"tcp://%s\", \"udp://%s\"]\n[service]\nexec = [%q]\n"+
		"environment = [\"%s=service\", \"GORACE=atexit_sleep_ms=0\"]\n%s", addr, addr, self, modeVariable, sandbox), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	a := launch(t, program(t, "activator"), "--config", config)
	a.wait("activator ready")
	return observe(t, addr, func() string {
		_, rest, _ := strings.Cut(a.wait("state=running"), " pid=")
		pid, _, _ := strings.Cut(rest, " ")
		return strings.TrimSpace(pid)
	})
}

// bare observes the same service without any sandbox, as "bare" or, with a filter
// of its own, as "filtered".
func bare(t *testing.T, mode string) observation {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	u, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := u.File()
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	child := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0"`, self)
	child.Env = append(os.Environ(), modeVariable+"="+mode, "GORACE=atexit_sleep_ms=0")
	child.ExtraFiles, child.Stderr = []*os.File{tcp, udp}, os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // vhangup(2) finds no terminal
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Wait() }()
	return observe(t, l.Addr().String(), func() string { return fmt.Sprint(child.Process.Pid) })
}
