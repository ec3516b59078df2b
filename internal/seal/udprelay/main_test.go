package udprelay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/netns"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "helper" {
		helper(os.Args[2:])
	}
	// A helper that is built for the race detector else sleeps a second at exit.
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	ktest.Main(m)
}

// waitTimeout is how long a test waits for what must happen.
const waitTimeout = 5 * time.Minute

// own begins the abstract names of this process's tests: the host's other users may run them too.
var own = fmt.Sprintf("@relay-test-%d-", os.Getpid())

func newOwner(t testing.TB) *netns.Owner {
	owner := new(netns.Owner)
	t.Cleanup(func() { _ = owner.Close() })
	return owner
}

// hostSocket binds a socket of the host.
func hostSocket(t testing.TB, network, address string) (*os.File, net.PacketConn) {
	t.Helper()
	c, err := net.ListenPacket(network, address)
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		ktest.Skip(t, "%v", err) // no IPv6
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		if network == "unixgram" && address[0] == '/' {
			_ = os.Remove(address)
		}
	})
	f, err := c.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, c
}

// openRelay relays for f until the test ends.
func openRelay(t testing.TB, m *netns.Owner, f *os.File, o Options) *SocketRelay {
	t.Helper()
	d, err := OpenSocketRelay(m, f, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// runner is a relay of either kind.
type runner interface{ Run(context.Context) error }

// run runs d; the function it returns ends that.
func run(t testing.TB, d runner) (stop func()) {
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

// udpOf is the carrier of a relay of UDP.
func udpOf(d *SocketRelay) *udpRelay { return d.carrier.(*udpRelay) }

// openUDP gives a flow its socket.
func openUDP(d *SocketRelay, f *flow) error {
	return d.openFlow(f, f.inner.Family(), udpOf(d).bindFlow, unix.EPOLLIN)
}

// service is the relay socket as a service has it: a copy of its own.
func service(t testing.TB, d *SocketRelay) net.PacketConn {
	t.Helper()
	c, err := net.FilePacketConn(d.File())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

var buffers = sync.Pool{New: func() any { return new([1 << 20]byte) }}

func receive(t testing.TB, c net.PacketConn) (string, net.Addr) {
	t.Helper()
	b := buffers.Get().(*[1 << 20]byte)[:]
	defer buffers.Put((*[1 << 20]byte)(b))
	_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
	n, from, err := c.ReadFrom(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

// eventually waits for what another goroutine or the kernel is about to do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// silent asserts that nothing is in the queue of c, after everything that was
// sent before has arrived: loopback delivers before the sender goes on.
func silent(t testing.TB, c net.PacketConn, name string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 1<<16)
	if n, from, err := c.ReadFrom(b); err == nil {
		t.Errorf("%s received %q from %v", name, b[:n], from)
	}
}

// descriptor is the number of a socket, valid while the test keeps it open.
func descriptor(t testing.TB, c any) int {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	number := -1
	if err == nil {
		err = raw.Control(func(fd uintptr) { number = int(fd) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func ask(t testing.TB, c net.PacketConn, to net.Addr, text string) {
	t.Helper()
	if _, err := c.WriteTo([]byte(text), to); err != nil {
		t.Fatal(err)
	}
}

// exchange is a question and its answer.
func exchange(t testing.TB, c net.PacketConn, to net.Addr, inner net.PacketConn) {
	t.Helper()
	ask(t, c, to, "question of "+c.LocalAddr().String())
	text, from := receive(t, inner)
	if want := "question of " + c.LocalAddr().String(); text != want {
		t.Fatalf("the service sees %q, not %q", text, want)
	}
	ask(t, inner, from, "answer to "+text)
	if answer, _ := receive(t, c); answer != "answer to "+text {
		t.Fatalf("the client sees %q", answer)
	}
}
