package relay

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if IsMaker() {
		Make()
	}
	if len(os.Args) > 1 && os.Args[1] == "helper" {
		helper(os.Args[2:])
	}
	// A maker that is built for the race detector else sleeps a second at exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}

// patience is how long a test waits for what must happen.
const patience = 10 * time.Second

func startSelf(argv []string, attr *syscall.ProcAttr) (int, error) {
	pid, _, err := syscall.StartProcess("/proc/self/exe", argv, attr)
	return pid, err
}

func newMaker(t testing.TB) *Maker {
	m := NewMaker(startSelf)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// hostSocket binds a socket of the host.
func hostSocket(t testing.TB, network, address string) (*os.File, net.PacketConn) {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, c
}

// standIn relays for f until the test ends.
func standIn(t testing.TB, m *Maker, f *os.File, o Options) *Datagrams {
	t.Helper()
	d, err := m.StandIn(f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// run runs d; the function it returns ends that.
func run(t testing.TB, d *Datagrams) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// service is the inner socket as a service has it: a copy of its own.
func service(t testing.TB, d *Datagrams) net.PacketConn {
	t.Helper()
	c, err := net.FilePacketConn(d.Inner())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func receive(t testing.TB, c net.PacketConn) (string, net.Addr) {
	t.Helper()
	b := make([]byte, 1<<20)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}
