package listen

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// socketSpec makes a socket of an address and options.
func socketSpec(t testing.TB, address string, change ...func(*spec.Options)) spec.Socket {
	t.Helper()
	a, err := spec.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	s := spec.Socket{Address: a, Name: "test"}
	for _, f := range change {
		f(&s.Options)
	}
	return s
}

// open opens address, to be closed at the end of the test.
func open(t testing.TB, address string, change ...func(*spec.Options)) *Socket {
	t.Helper()
	s, err := openOne(socketSpec(t, address, change...), Means{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// hasVSock reports whether this kernel has AF_VSOCK.
func hasVSock() bool {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err != unix.EAFNOSUPPORT
}

// asService plays a service: f has a descriptor of its own for s, which it ends
// with closing. The description is the same, as after fork.
func asService(t testing.TB, s *Socket, f func(fd int)) {
	t.Helper()
	file, err := s.Lend()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	f(fd)
}

// serveOne answers one client of s with what it said.
func serveOne(t testing.TB, s *Socket) {
	t.Helper()
	asService(t, s, func(fd int) {
		if s.Spec().Address.Network == spec.FIFO {
			buf := make([]byte, 64)
			if n, err := unix.Read(fd, buf); err != nil || string(buf[:n]) != "hello" {
				t.Errorf("%s: read %q, %v", s, buf[:max(n, 0)], err)
			}
			return
		}
		conn := fd
		if s.Spec().Address.IsStream() {
			var err error
			conn, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
			if err != nil {
				t.Errorf("%s: accept: %v", s, err)
				return
			}
			defer unix.Close(conn)
		}
		buf := make([]byte, 64)
		n, from, err := unix.Recvfrom(conn, buf, 0)
		if err != nil {
			t.Errorf("%s: recvfrom: %v", s, err)
			return
		}
		if s.Spec().Address.IsStream() {
			_, err = unix.Write(conn, buf[:n])
		} else {
			err = unix.Sendto(conn, buf[:n], 0, from)
		}
		if err != nil {
			t.Errorf("%s: answer: %v", s, err)
		}
	})
}

// client says hello to s and returns a function that waits for the answer.
func client(t testing.TB, s *Socket) (answer func()) {
	t.Helper()
	a := s.Spec().Address
	if a.Network == spec.FIFO {
		f, err := os.OpenFile(a.Path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("hello"); err != nil {
			t.Fatal(err)
		}
		f.Close()
		return func() {}
	}
	conn, err := dial(t, a)
	if err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatalf("%s: %v", s, err)
	}
	return func() {
		defer conn.Close()
		conn.SetReadDeadline(time.Now().Add(waitTimeout))
		buf := make([]byte, 64)
		n, err := conn.Read(buf)
		if err != nil || string(buf[:n]) != "hello" {
			t.Errorf("%s: answer %q, %v", s, buf[:n], err)
		}
	}
}

func dial(t testing.TB, a spec.Address) (net.Conn, error) {
	t.Helper()
	switch a.Network {
	case spec.VSock:
		return dialVSock(a)
	case spec.UnixGram:
		local := filepath.Join(t.TempDir(), "c")
		return net.DialUnix("unixgram", &net.UnixAddr{Name: local, Net: "unixgram"}, &net.UnixAddr{Name: a.Path, Net: "unixgram"})
	case spec.Unix, spec.UnixPacket:
		return net.Dial(string(a.Network), a.Path)
	}
	host := "127.0.0.1"
	switch {
	case a.IP.IsValid():
		host = a.IP.String()
	case a.Network == spec.TCP6 || a.Network == spec.UDP6:
		host = "::1"
	}
	network := "tcp"
	if a.IsUDP() {
		network = "udp"
	}
	return net.Dial(network, net.JoinHostPort(host, fmt.Sprint(a.Port)))
}

func dialVSock(a spec.Address) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Without the loopback transport a guest asks its host, who may not answer.
	wait := unix.Timeval{Usec: 300_000}
	if err := unix.SetsockoptTimeval(fd, unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT, &wait); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_LOCAL, Port: a.Port}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	unix.SetNonblock(fd, true)
	return fileConn{os.NewFile(uintptr(fd), "vsock")}, nil
}

// fileConn is a net.Conn for what net does not know.
type fileConn struct{ *os.File }

func (fileConn) LocalAddr() net.Addr  { return nil }
func (fileConn) RemoteAddr() net.Addr { return nil }

// addresses returns one of every kind that this machine has.
func addresses(t testing.TB) []string {
	dir := t.TempDir()
	all := []string{
		fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)),
		fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)),
		fmt.Sprintf("tcp4://:%d", ktest.Port(t)),
		fmt.Sprintf("udp4://:%d", ktest.Port(t)),
		fmt.Sprintf("tcp://:%d", ktest.Port(t)),
		fmt.Sprintf("udp://:%d", ktest.Port(t)),
		"unix://" + dir + "/s", "unixgram://" + dir + "/g", "unixpacket://" + dir + "/p",
		fmt.Sprintf("unix://@activator-test-%d", os.Getpid()),
		fmt.Sprintf("unixgram://@activator-test-%d", os.Getpid()),
		fmt.Sprintf("unixpacket://@activator-test-p-%d", os.Getpid()),
		"fifo://" + dir + "/f",
	}
	if hasIPv6() {
		all = append(all,
			fmt.Sprintf("tcp://[::1]:%d", ktest.Port(t)), fmt.Sprintf("udp://[::1]:%d", ktest.Port(t)),
			fmt.Sprintf("tcp6://:%d", ktest.Port(t)), fmt.Sprintf("udp6://:%d", ktest.Port(t)))
	}
	return all
}

// start runs a watcher for the test.
func start(t testing.TB) *Watcher {
	t.Helper()
	w, err := NewWatcher(nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		w.Close()
	})
	return w
}

// arm waits for s; the channel gets one value per call of ready.
func arm(t testing.TB, w *Watcher, s *Socket) <-chan struct{} {
	t.Helper()
	fired := make(chan struct{}, 100)
	if err := w.WaitReadable(s, func() { fired <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	return fired
}

func expect(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(waitTimeout):
		t.Fatalf("%s: nothing in 10 s", what)
	}
}

// TestLife opens every kind of socket, waits for a client without taking it off
// the queue, serves it, and does it again.
func TestLife(t *testing.T) {
	w := start(t)
	for _, address := range addresses(t) {
		t.Run(address, func(t *testing.T) { live(t, w, open(t, address)) })
	}
}

func live(t *testing.T, w *Watcher, s *Socket) {
	for range 3 {
		fired := arm(t, w, s)
		answer := client(t, s)
		expect(t, s.String(), fired)
		// Still there: armed again it fires again.
		expect(t, s.String(), arm(t, w, s))
		serveOne(t, s)
		answer()
		if what, err := s.Mend(); what != "" || err != nil {
			t.Errorf("Mend of a healthy socket: %q, %v", what, err)
		}
		if n, err := s.RefuseClients(maxRefused); n != 0 || err != nil {
			t.Errorf("Refuse of an empty queue: %d, %v", n, err)
		}
		if len(fired) > 0 {
			t.Error("ready called twice")
		}
	}
	if s.Generation() != 0 {
		t.Errorf("generation %d", s.Generation())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := s.Lend(); !errors.Is(err, errClosed) {
		t.Errorf("Lend after Close: %v", err)
	}
	if node := s.Spec().Address.Node(); node != "" {
		if left, _ := os.ReadDir(filepath.Dir(node)); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestVSock(t *testing.T) {
	if !hasVSock() {
		_, err := openOne(socketSpec(t, "vsock://:1"), Means{})
		if err == nil || !strings.Contains(err.Error(), "modprobe vsock") {
			t.Errorf("without vsock: %v", err)
		}
		ktest.Skip(t, "no AF_VSOCK")
	}
	s := open(t, fmt.Sprintf("vsock://:%d", 20000+os.Getpid()))
	asService(t, s, func(fd int) {
		sa, err := unix.Getsockname(fd)
		if vm, ok := sa.(*unix.SockaddrVM); err != nil || !ok || vm.CID != spec.CIDAny || vm.Port != s.Spec().Address.Port {
			t.Errorf("bound to %+v, %v", sa, err)
		}
	})
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	if _, err := openOne(s.Spec(), Means{}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("second bind: %v", err)
	}
	c, err := dial(t, s.Spec().Address)
	if err != nil {
		t.Logf("no loopback transport: %v", err)
		return
	}
	c.Close()
	live(t, start(t), s)
}

func TestLendFlags(t *testing.T) {
	for _, want := range []bool{false, true} {
		s := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)), func(o *spec.Options) { o.NonBlocking = want })
		asService(t, s, func(fd int) {
			// A service changes what all holders share.
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_ASYNC|unix.O_NONBLOCK); err != nil {
				t.Fatal(err)
			}
		})
		asService(t, s, func(fd int) {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK != 0 != want || flags&unix.O_ASYNC != 0 {
				t.Errorf("non_blocking=%v: flags %#x, %v", want, flags, err)
			}
		})
	}
}

// TestOpenAllOrNothing lets the last of three fail.
func TestOpenAllOrNothing(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	port := ktest.Port(t)
	first := []spec.Socket{socketSpec(t, fmt.Sprintf("tcp://127.0.0.1:%d", port)), socketSpec(t, "unix://"+dir+"/s", func(o *spec.Options) { o.Symlinks = []string{dir + "/l"} })}
	sockets, err := OpenAll(t.Context(), append(first, socketSpec(t, "unix://"+dir+"/file")), Means{})
	if err == nil || sockets != nil {
		t.Fatalf("%v, %v", sockets, err)
	}
	if names := entries(t, dir); names != "file" {
		t.Errorf("left: %s", names)
	}
	sockets, err = OpenAll(t.Context(), first, Means{})
	if err != nil {
		t.Fatal(err)
	}
	if names := entries(t, dir); names != ".s.activator file l s" {
		t.Errorf("made: %s", names)
	}
	for _, s := range sockets {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if names := entries(t, dir); names != "file" {
		t.Errorf("left: %s", names)
	}
}

func entries(t testing.TB, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestKeep(t *testing.T) {
	s := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)), func(o *spec.Options) { o.KeepAlive = true })
	same := s.Spec()
	same.Name, same.Options.NonBlocking, same.Options.Symlinks = "other", true, []string{}
	if !s.AdoptSpec(same) || s.Spec().Name != "other" {
		t.Error("another name and non_blocking need a new socket")
	}
	other := s.Spec()
	other.Address.Port++
	if s.AdoptSpec(other) {
		t.Error("another address needs no new socket")
	}
	if !s.AdoptSpec(s.Spec()) {
		t.Error("the same spec needs a new socket")
	}
	s.Close()
	if s.AdoptSpec(s.Spec()) {
		t.Error("a closed socket is kept")
	}
}

// TestRefuse turns away who waits, and nobody who comes later.
func TestRefuse(t *testing.T) {
	for _, address := range addresses(t) {
		t.Run(address, func(t *testing.T) {
			s := open(t, address)
			if s.Spec().Address.Network == spec.FIFO {
				client(t, s)
				if n, err := s.RefuseClients(maxRefused); n != len("hello") || err != nil {
					t.Errorf("Refuse: %d, %v", n, err)
				}
				return
			}
			var conns []net.Conn
			for range 3 {
				c, err := dial(t, s.Spec().Address)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if _, err := c.Write([]byte("x")); err != nil {
					t.Fatal(err)
				}
				conns = append(conns, c)
			}
			if n, err := s.RefuseClients(maxRefused); n != 3 || err != nil {
				t.Errorf("Refuse: %d, %v", n, err)
			}
			if s.Spec().Address.IsStream() {
				for _, c := range conns {
					c.SetReadDeadline(time.Now().Add(waitTimeout))
					if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
						t.Errorf("a refused client reads: %v", err)
					} else if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
						t.Errorf("a refused client reads: %v", err)
					}
				}
			}
			answer := client(t, s)
			serveOne(t, s)
			answer()
		})
	}
}

// TestOpenUntilDone holds that whoever waits for a taken address waits no longer than it is asked for.
func TestOpenUntilDone(t *testing.T) {
	taken := open(t, fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)))
	before := reopenTimeout
	reopenTimeout = time.Hour
	defer func() { reopenTimeout = before }()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := OpenAll(ctx, []spec.Socket{taken.Spec()}, Means{})
		failed <- err
	}()
	cancel()
	if err := <-failed; !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("%v", err)
	}
}
