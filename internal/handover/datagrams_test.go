package handover

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// near is a [udprelay.Program] on our own loopback.
type near struct{ program net.PacketConn }

func (n near) MakeSockets(domain, _ int) ([]int, error) {
	fd, err := unix.Socket(domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return []int{fd}, err
}

func (n near) ReadQueue() (spec.Queue, error) { return spec.Queue{There: true, Room: 1 << 16}, nil }

func (n near) FindAddress(netip.Addr, netip.Addr) (to netip.AddrPort, own bool) {
	return n.program.LocalAddr().(*net.UDPAddr).AddrPort(), false
}

func loopback(t *testing.T) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// proxyFor makes a proxy of one socket, to a program on our own loopback.
func proxyFor(t *testing.T, host *net.UDPConn, program net.PacketConn) *proxy {
	t.Helper()
	f, err := host.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := udprelay.OpenProgramRelay(f, near{program}, udprelay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := &proxy{datagrams: []*datagrams{{ProgramRelay: d}}}
	c.living, c.die = context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- d.Run(c.living) }()
	t.Cleanup(func() {
		c.die()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		_ = d.Close()
	})
	return c
}

// Who was carried after the look that saw nobody is answered before the end.
func TestAnsweredBeforeTheEnd(t *testing.T) {
	host, program, client := loopback(t), loopback(t), loopback(t)
	c := proxyFor(t, host, program)
	looked := []uint64{c.datagrams[0].Carried()}
	c.awaitAnswers(Retirement{Seen: []uint64{looked[0]}, Quiet: time.Hour}) // nobody came: it is not waited

	if _, err := client.WriteTo([]byte("question"), host.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_, from, err := program.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	var answered atomic.Bool
	time.AfterFunc(50*time.Millisecond, func() {
		answered.Store(true)
		_, _ = program.WriteTo([]byte("answer"), from)
	})
	c.datagrams[0].Leave()
	c.awaitRead()
	c.awaitAnswers(Retirement{Seen: looked, Quiet: 3 * time.Second})
	if !answered.Load() {
		t.Error("the end came before the answer")
	}
	if size, _, err := client.ReadFrom(buf); err != nil || string(buf[:size]) != "answer" {
		t.Errorf("answer %q, %v", buf[:size], err)
	}

	c.die() // and of a program that has ended nothing is expected
	c.awaitAnswers(Retirement{Seen: []uint64{0}, Quiet: time.Hour})
}
