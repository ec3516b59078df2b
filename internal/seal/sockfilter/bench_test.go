package sockfilter

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// BenchmarkEcho compares the round trip of a datagram with and without the seal,
// alternately, so that what else the machine does falls on both alike. A server in
// a thread of its own is what a client meets; one thread for both leaves out the
// scheduler, and so shows the seal's share at its largest.
func BenchmarkEcho(b *testing.B) {
	any4, any6 := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	b.Run("v4/server", func(b *testing.B) { compare(b, udp4(), any4, (*echo).served) })
	b.Run("v6/server", func(b *testing.B) { compare(b, udp6(), any6, (*echo).served) })
	b.Run("v4/one thread", func(b *testing.B) { compare(b, udp4(), any4, (*echo).alone) })
	b.Run("v6/one thread", func(b *testing.B) { compare(b, udp6(), any6, (*echo).alone) })
}

func compare(b *testing.B, kind spec.Kind, address unix.Sockaddr, trip func(*echo) error) {
	p := open(b, 0)
	sockets, err := p.MakeSockets([]spec.Kind{kind})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { closeFiles(sockets) }) // after the server has ended
	if err := p.Admit(sockets[0]); err != nil {
		b.Fatal(err)
	}
	sealed := newEcho(b, fdOf(b, sockets[0]), kind, address)
	plain := newEcho(b, plainSocket(b, kind), kind, address)
	var with, without, ratio []float64
	const run = 100 // round trips, before the other has its turn
	for b.Loop() {
		s, p := timed(b, sealed, trip, run), timed(b, plain, trip, run)
		with, without, ratio = append(with, s), append(without, p), append(ratio, s/p)
	}
	b.ReportMetric(median(with), "ns/sealed")
	b.ReportMetric(median(without), "ns/plain")
	b.ReportMetric(median(ratio), "sealed/plain")
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}

func timed(b *testing.B, e *echo, trip func(*echo) error, n int) (each float64) {
	began := time.Now()
	for range n {
		if err := trip(e); err != nil {
			b.Fatal(err)
		}
	}
	return float64(time.Since(began).Nanoseconds()) / float64(n)
}

// echo is a server and its client.
type echo struct {
	server, client int
	at             unix.Sockaddr
	buffer         [64]byte
	running        chan error // from the server's thread; nil: not started yet
}

func newEcho(b *testing.B, server int, kind spec.Kind, address unix.Sockaddr) *echo {
	if err := unix.Bind(server, address); err != nil {
		b.Fatal(err)
	}
	at, err := unix.Getsockname(server)
	if err != nil {
		b.Fatal(err)
	}
	e := &echo{server: server, client: plainSocket(b, kind), at: at}
	b.Cleanup(func() {
		if e.running != nil { // a datagram of nothing ends the server
			_ = unix.Sendto(e.client, nil, 0, e.at)
			<-e.running
		}
	})
	return e
}

// answer receives one datagram and sends it back.
func (e *echo) answer(buffer []byte) (n int, err error) {
	n, from, err := unix.Recvfrom(e.server, buffer, 0)
	if err == nil && n > 0 {
		err = unix.Sendto(e.server, buffer[:n], 0, from)
	}
	return n, err
}

func (e *echo) alone() error {
	err := unix.Sendto(e.client, e.buffer[:], 0, e.at)
	if err == nil {
		_, err = e.answer(e.buffer[:])
	}
	if err == nil {
		_, _, err = unix.Recvfrom(e.client, e.buffer[:], 0)
	}
	return err
}

func (e *echo) served() error {
	if e.running == nil {
		e.running = make(chan error, 1)
		go e.serve()
	}
	err := unix.Sendto(e.client, e.buffer[:], 0, e.at)
	if err == nil {
		_, _, err = unix.Recvfrom(e.client, e.buffer[:], 0)
	}
	return err
}

func (e *echo) serve() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var buffer [64]byte
	for {
		if n, err := e.answer(buffer[:]); err != nil || n == 0 {
			e.running <- err
			return
		}
	}
}

func plainSocket(tb testing.TB, k spec.Kind) int {
	tb.Helper()
	fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
	if err != nil {
		tb.Fatal(os.NewSyscallError("socket", err))
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// fdOf returns a file's descriptor, for as long as the test does not close it.
func fdOf(tb testing.TB, f *os.File) int {
	tb.Helper()
	fd, err := withFD(f, func(fd int) (int, error) { return fd, nil })
	if err != nil {
		tb.Fatal(err)
	}
	return fd
}
