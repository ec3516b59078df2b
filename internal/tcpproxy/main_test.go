package tcpproxy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if limit, ok := os.LookupEnv(helperVariable); ok {
		os.Exit(helper(limit))
	}
	ktest.Main(m)
}

// waitTimeout is how long a test waits for what must happen.
const waitTimeout = 5 * time.Minute

// to is a dialer by plain connect.
type to struct{ addr net.Addr }

func (d to) Dial(*Client) (int, error) { return dial(d.addr, unix.SOCK_NONBLOCK) }

func sockaddrOf(addr net.Addr) (int, unix.Sockaddr) {
	switch at := addr.(type) {
	case *net.TCPAddr:
		if ip := at.IP.To4(); ip != nil {
			return unix.AF_INET, &unix.SockaddrInet4{Port: at.Port, Addr: [4]byte(ip)}
		}
		return unix.AF_INET6, &unix.SockaddrInet6{Port: at.Port, Addr: [16]byte(at.IP)}
	case *net.UnixAddr:
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: at.Name}
	}
	panic(addr)
}

func dial(addr net.Addr, flags int) (int, error) {
	family, at := sockaddrOf(addr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|flags, 0)
	if err != nil {
		return -1, err
	}
	if family != unix.AF_UNIX {
		err = PrepareSocket(fd)
	}
	if err == nil {
		err = unix.Connect(fd, at)
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listener makes a listening socket as package listen does: blocking.
func listener(t testing.TB, network string, backlog int) (*os.File, net.Addr) {
	t.Helper()
	var addr net.Addr
	switch network {
	case "tcp4":
		addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	case "tcp6":
		addr = &net.TCPAddr{IP: net.IPv6loopback}
	case "unix":
		addr = &net.UnixAddr{Net: "unix", Name: filepath.Join(t.TempDir(), "s")}
	}
	family, at := sockaddrOf(addr)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), network)
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, at); err != nil {
		if network == "tcp6" && err == unix.EADDRNOTAVAIL {
			ktest.Skip(t, "no IPv6: %v", err)
		}
		t.Fatal(err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	if a, ok := addr.(*net.TCPAddr); ok {
		name, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		switch name := name.(type) {
		case *unix.SockaddrInet4:
			a.Port = name.Port
		case *unix.SockaddrInet6:
			a.Port = name.Port
		}
	}
	return f, addr
}

// stream is what TCP and unix connections of package net have in common.
type stream interface {
	net.Conn
	CloseWrite() error
}

// program is a server that the proxy carries to.
type program struct {
	net.Listener
	wg sync.WaitGroup
}

// serve starts a program; each connection is closed after serve.
func serve(t testing.TB, network string, serve func(stream)) *program {
	t.Helper()
	f, _ := listener(t, network, 512)
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Listener: l}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() {
				defer c.Close()
				serve(c.(stream))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.wg.Wait()
	})
	return p
}

// running is a proxy that runs.
type running struct {
	*Proxy
	t      testing.TB
	addr   net.Addr
	cancel context.CancelFunc
	ended  chan error
	log    *journal
	dialed atomic.Int64 // clients that were to have a backend
}

// counted counts the clients.
type counted struct {
	Dialer
	dialed *atomic.Int64
}

func (d counted) Dial(c *Client) (int, error) {
	d.dialed.Add(1)
	return d.Dialer.Dial(c)
}

// connections is how many clients there are now. Spliced ones count twice.
func (r *running) connections() int { return r.share.Taken() / perConn }

// start runs a proxy from a new listener of network to the program at target.
func start(t testing.TB, network string, target Dialer, o Options) *running {
	t.Helper()
	f, addr := listener(t, network, 512)
	return startAt(t, f, addr, target, o)
}

// startAt runs a proxy from f, which listens at addr.
func startAt(t testing.TB, f *os.File, addr net.Addr, target Dialer, o Options) *running {
	t.Helper()
	return startOn(t, Route{Listener: f, Dialer: target}, addr, o)
}

// startOn runs a proxy from the listener of x, which listens at addr.
func startOn(t testing.TB, x Route, addr net.Addr, o Options) *running {
	t.Helper()
	r := &running{t: t, addr: addr, ended: make(chan error, 1), log: &journal{}}
	o.Log = slog.New(slog.NewTextHandler(r.log, nil))
	x.Dialer = counted{x.Dialer, &r.dialed}
	var err error
	if r.Proxy, err = New([]Route{x}, o); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.cancel = context.WithCancel(context.Background())
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		r.cancel()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if n := r.count; n != 0 {
			t.Errorf("%d connections after the end", n)
		}
	})
	return r
}

// connect is a client, for at most waitTimeout.
func (r *running) connect() stream {
	r.t.Helper()
	c, err := net.Dial(r.addr.Network(), r.addr.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		r.t.Fatal(err)
	}
	return c.(stream)
}

// become waits until condition holds.
func become(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(waitTimeout); !condition(); {
		if time.Now().After(end) {
			t.Fatalf("it never was that %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// journal is a log that is read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(b)
}

func (j *journal) count(text string) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return bytes.Count(j.b.Bytes(), []byte(text))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// pattern fills b with what a stream of seed has at offset.
func pattern(b []byte, seed byte, offset int) {
	for i := range b {
		x := uint32(offset+i) * 2654435761
		b[i] = byte(x>>24) ^ byte(x>>13) ^ seed
	}
}

// writePattern writes the first size bytes of a stream.
func writePattern(w net.Conn, seed byte, size int) error {
	b := make([]byte, 128<<10)
	for at := 0; at < size; {
		n := min(len(b), size-at)
		pattern(b[:n], seed, at)
		if _, err := w.Write(b[:n]); err != nil {
			return fmt.Errorf("write at %d of %d: %w", at, size, err)
		}
		at += n
	}
	return nil
}

// readPattern reads a stream to its end of file and compares.
func readPattern(r net.Conn, seed byte, size int) error {
	b, want := make([]byte, 128<<10), make([]byte, 128<<10)
	for at := 0; ; {
		n, err := r.Read(b)
		pattern(want[:n], seed, at)
		if !bytes.Equal(b[:n], want[:n]) {
			return fmt.Errorf("other bytes between %d and %d", at, at+n)
		}
		at += n
		switch {
		case n == 0 && err != nil && at == size && err.Error() == "EOF":
			return nil
		case err != nil:
			return fmt.Errorf("read at %d of %d: %w", at, size, err)
		}
	}
}

// combinations of where clients come from and where the program listens.
var combinations = [][2]string{{"tcp4", "tcp4"}, {"tcp6", "tcp4"}, {"tcp4", "tcp6"}, {"tcp4", "unix"}, {"unix", "tcp4"}, {"unix", "unix"}}
