package listen

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// accept takes one client as a service would.
func accept(t *testing.T, s *Socket) int {
	t.Helper()
	fd := -1
	asService(t, s, func(listener int) {
		var err error
		if fd, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC); err != nil {
			t.Fatal(err)
		}
	})
	return fd
}

func clients(t *testing.T, s *Socket, when string, want int) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout) // what ends a connection is on its way
	for {
		a, err := s.Activity()
		if err != nil {
			t.Fatal(err)
		}
		if a.Clients == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %d clients, want %d", when, a.Clients, want)
		}
	}
}

// Everybody counts who is in the queue, connected, or half gone; nobody else does.
func TestActivityOfConnections(t *testing.T) {
	dir := t.TempDir()
	for _, address := range []string{"tcp://127.0.0.1:%d", "tcp://[::1]:%d", "tcp://:%d", "unix://" + dir + "/s", "unix://@activity-%d", "unixpacket://" + dir + "/p"} {
		t.Run(address, func(t *testing.T) {
			port := ktest.Port(t)
			if address[len(address)-2:] == "%d" {
				address = fmt.Sprintf(address, port)
			}
			s := mustOpen(t, address)
			clients(t, s, "nobody came", 0)
			var conns []net.Conn
			for range 3 {
				conns = append(conns, dialSocket(t, s))
			}
			clients(t, s, "three came", 3)
			first, second := accept(t, s), accept(t, s)
			clients(t, s, "two of three are accepted", 3)
			if half, ok := conns[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
				clients(t, s, "one has said all", 3)
			}
			_ = unix.Shutdown(second, unix.SHUT_WR)
			clients(t, s, "one was told all", 3)
			conns[0].Close()
			unix.Close(first)
			clients(t, s, "one is gone", 2)
			conns[1].Close()
			unix.Close(second)
			clients(t, s, "two are gone", 1)
			conns[2].Close()
			unix.Close(accept(t, s))
			clients(t, s, "all are gone", 0)
		})
	}
}

// The same port at another address, the same name in another root and the other end
// of a connection are others' clients.
func TestActivityOfOthers(t *testing.T) {
	port := ktest.Port(t)
	s := mustOpen(t, fmt.Sprintf("tcp://127.0.0.1:%d", port))
	other := mustOpen(t, fmt.Sprintf("tcp://127.0.0.2:%d", port))
	dialSocket(t, other)
	clients(t, other, "one came", 1)
	clients(t, s, "one came to another address", 0)

	path := filepath.Join(t.TempDir(), "s")
	old, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	served, err := old.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	clients(t, mustOpen(t, "unix://"+path), "one came to what stood there before", 0)
}

// What has come is seen when the service has taken it, too.
func TestActivityOfData(t *testing.T) {
	dir := t.TempDir()
	for _, address := range []string{fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)), fmt.Sprintf("udp://:%d", ktest.Port(t)), "fifo://" + dir + "/f"} {
		t.Run(address, func(t *testing.T) {
			s := mustOpen(t, address)
			send := sender(t, s)
			before := mark(t, s, 0)
			if again := mark(t, s, 0); again != before {
				t.Errorf("nothing came, and the mark is another one")
			}
			for range 3 {
				time.Sleep(5 * time.Millisecond) // the grain of a file's time
				send()
				mark(t, s, 1)
				asService(t, s, func(fd int) { _, _ = unix.Read(fd, make([]byte, 16)) })
				now := mark(t, s, 0)
				if now == before {
					t.Errorf("something came, and the mark is the same")
				}
				before = now
			}
		})
	}
}

func sender(t *testing.T, s *Socket) func() {
	t.Helper()
	if path := s.Spec().Address.Node(); path != "" {
		return func() {
			if err := os.WriteFile(path, []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := dialSocket(t, s)
	return func() { _, _ = c.Write([]byte("x")) }
}

func mark(t *testing.T, s *Socket, waiting int) uint64 {
	t.Helper()
	a, err := s.Activity()
	if err != nil {
		t.Fatal(err)
	}
	if a.Clients != waiting {
		t.Errorf("%d wait, want %d", a.Clients, waiting)
	}
	return a.Mark
}

// A relay socket knows itself what it carries.
func TestActivityOfRelaySocket(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
	if _, err := s.Lend(); err != nil {
		t.Fatal(err)
	}
	before := mark(t, s, 0)
	if _, err := dialSocket(t, s).Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(waitTimeout); ; {
		a, err := s.Activity()
		if err != nil {
			t.Fatal(err)
		}
		if a.Mark != before && a.Clients == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a datagram was relayed: %+v", a)
		}
	}
}

// Where nothing tells, that is said.
func TestActivityUnseen(t *testing.T) {
	for _, test := range []struct {
		address string
		seal    spec.Seal
		change  func(*spec.Options)
		seen    bool
	}{
		{"udp://127.0.0.1:1", spec.Unsealed, nil, true},
		{"udp://127.0.0.1:1", spec.Unsealed, func(o *spec.Options) { o.Timestamping = "us" }, false},
		{"udp://127.0.0.1:1", spec.Relayed, func(o *spec.Options) { o.Timestamping = "us" }, true},
		{"unixgram:///x", spec.Unsealed, nil, false},
		{"unixgram:///x", spec.Relayed, nil, true},
		{"vsock://1:1", spec.Unsealed, nil, false},
		{"tcp://127.0.0.1:1", spec.Unsealed, nil, true},
	} {
		sp := socketSpec(t, test.address)
		sp.Seal = test.seal
		if test.change != nil {
			test.change(&sp.Options)
		}
		if err := CheckActivity(sp); (err == nil) != test.seen {
			t.Errorf("%s %v: %v", test.address, test.seal, err)
		}
	}
	s := mustOpen(t, fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)))
	asService(t, s, func(fd int) { _ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1) })
	if _, err := s.Activity(); err == nil {
		t.Error("the service asked for timestamps, and the activity is known")
	}
}
