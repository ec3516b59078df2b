package tcpproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// linger makes the end of a connection a reset.
func linger(t testing.TB, c stream) {
	if err := c.(*net.TCPConn).SetLinger(0); err != nil {
		t.Error(err)
	}
}

// wasReset: TCP says it so, and so does a unix socket whose peer left bytes unread.
func wasReset(err error) bool {
	return errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE)
}

// A reset of the client reaches the program, and what was sent before it too.
func TestClientResets(t *testing.T) {
	heard := make(chan error, 1)
	var got []byte
	server := serve(t, "tcp4", func(c stream) {
		var err error
		got, err = io.ReadAll(c)
		heard <- err
	})
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	c := p.connect()
	_, _ = c.Write([]byte("last words"))
	become(t, "the words are carried", func() bool { return p.dialed.Load() == 1 && p.connections() == 1 })
	linger(t, c)
	_ = c.Close()
	if err := <-heard; !wasReset(err) {
		t.Errorf("the program read %q, then %v", got, err)
	}
	become(t, "nobody is connected", func() bool { return p.connections() == 0 })
}

// A reset after the client's half-close is noticed though nobody reads there.
func TestClientResetsAfterHalfClose(t *testing.T) {
	for _, network := range []string{"tcp4", "unix"} {
		t.Run(network, func(t *testing.T) {
			ended, gone := make(chan struct{}), make(chan error, 1)
			server := serve(t, network, func(c stream) {
				_, _ = io.ReadAll(c)
				close(ended)
				// It is silent. Only a write would find a unix socket's end.
				for {
					if _, err := c.Write([]byte("?")); err != nil {
						gone <- err
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			p := start(t, "tcp4", to{server.Addr()}, Options{})
			c := p.connect()
			_ = c.CloseWrite()
			<-ended
			linger(t, c)
			_ = c.Close()
			if err := <-gone; !wasReset(err) {
				t.Error(err)
			}
			become(t, "nobody is connected", func() bool { return p.connections() == 0 })
		})
	}
}

// As before, but the program says nothing: the proxy sees it by itself.
func TestSilentProgramHearsOfReset(t *testing.T) {
	ended, gone := make(chan struct{}), make(chan struct{})
	server := serve(t, "tcp4", func(c stream) {
		_, _ = io.ReadAll(c)
		close(ended)
		<-gone
	})
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	c := p.connect()
	_ = c.CloseWrite()
	<-ended
	linger(t, c)
	_ = c.Close()
	become(t, "nobody is connected", func() bool { return p.connections() == 0 })
	close(gone)
}

// A program that answers and leaves without reading (413 of a web server) resets:
// the answer arrives first, then the reset.
func TestProgramResets(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			server := serve(t, pair[1], func(c stream) {
				_, _ = io.ReadFull(c, make([]byte, 1))
				_, _ = c.Write([]byte("too large"))
			}) // and closes with bytes unread
			p := start(t, pair[0], to{server.Addr()}, Options{})
			c := p.connect()
			var wg sync.WaitGroup
			var unsent error
			wg.Go(func() {
				for b := make([]byte, 64<<10); unsent == nil; {
					_, unsent = c.Write(b)
				}
			})
			got, err := io.ReadAll(c)
			wg.Wait()
			if string(got) != "too large" {
				t.Errorf("read %q, %v", got, err)
			}
			if !wasReset(err) && !wasReset(unsent) { // the kernel says it once
				t.Errorf("the end was %v and %v, not a reset", err, unsent)
			}
			become(t, "nobody is connected", func() bool { return p.connections() == 0 })
		})
	}
}

// What was carried before the program's reset is read to its last byte, also by a
// client that is slow: a reset of ours waits for it.
func TestResetWaitsForReader(t *testing.T) {
	const size = 600 << 10
	carried := make(chan struct{})
	server := serve(t, "tcp4", func(c stream) {
		_ = writePattern(c, 3, size)
		become(t, "all is out", func() bool {
			raw, _ := c.(*net.TCPConn).SyscallConn()
			left := 0
			_ = raw.Control(func(fd uintptr) { left = countUnsent(int32(fd)) })
			return left == 0
		})
		linger(t, c)
		close(carried)
	})
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	// A window so small that the answer stays on our side.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
		t.Fatal(err)
	}
	_, at := sockaddrOf(p.addr)
	if err := unix.Connect(fd, at); err != nil {
		t.Fatal(err)
	}
	<-carried
	got, b, want := 0, make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, b)
		if err != nil {
			if err != unix.ECONNRESET {
				t.Error(err)
			}
			break
		}
		if n == 0 {
			t.Error("a clean end of a stream that was reset")
			break
		}
		pattern(want[:n], 3, got)
		if !bytes.Equal(b[:n], want[:n]) {
			t.Fatalf("other bytes after %d", got)
		}
		got += n
	}
	if got != size {
		t.Errorf("%d of %d bytes before the reset", got, size)
	}
}

// Clients leave in the middle of bulk: their program hears of it, and the proxy lives
// (a splice into such a socket is a SIGPIPE, which kills systemd-socket-proxyd).
func TestClientLeavesInBulk(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			gone := make(chan error, 8)
			server := serve(t, pair[1], func(c stream) {
				for b := make([]byte, 256<<10); ; {
					if _, err := c.Write(b); err != nil {
						gone <- err
						return
					}
				}
			})
			p := start(t, pair[0], to{server.Addr()}, Options{})
			for range cap(gone) {
				c := p.connect()
				_, _ = io.ReadFull(c, make([]byte, 1<<20))
				_ = c.Close()
			}
			for range cap(gone) {
				if err := <-gone; !wasReset(err) {
					t.Error(err)
				}
			}
			become(t, "nobody is connected", func() bool { return p.connections() == 0 })
		})
	}
}

// Nobody listens: the client is turned away with a reset, the log says it once.
func TestRefused(t *testing.T) {
	for _, network := range []string{"tcp4", "unix"} {
		t.Run(network, func(t *testing.T) {
			f, addr := listener(t, network, 1)
			_ = f.Close()
			p := start(t, "tcp4", to{addr}, Options{})
			for range 50 {
				c, err := net.Dial(p.addr.Network(), p.addr.String())
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(waitTimeout))
					_, err = c.Read(make([]byte, 1))
					_ = c.Close()
				}
				if !wasReset(err) {
					t.Fatal(err)
				}
			}
			if n := p.dialed.Load(); n != 50 {
				t.Errorf("%d refused", n)
			}
			if n := p.log.count("turned away"); n != 1 {
				t.Errorf("said %d times:\n%s", n, p.log)
			}
		})
	}
}

// Run's context ends in the middle: those that wait get an end of file, one whose
// answer is cut off gets a reset, who comes later waits in the queue, and the proxy
// can run again.
func TestCancel(t *testing.T) {
	var written atomic.Int64
	server := serve(t, "tcp4", func(c stream) {
		first := make([]byte, 1)
		_, _ = io.ReadFull(c, first)
		for first[0] == 'b' {
			n, err := c.Write(make([]byte, 64<<10))
			if written.Add(int64(n)); err != nil {
				return
			}
		}
		_, _ = c.Write(first)
		_, _ = io.Copy(c, c)
	})
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	idle, busy := p.connect(), p.connect()
	if !echoes(idle, "e", "") || !echoes(idle, "", "e") {
		t.Fatal("no echo")
	}
	_, _ = busy.Write([]byte("b"))
	become(t, "the busy one is full", func() bool {
		before := written.Load()
		time.Sleep(500 * time.Millisecond)
		return before > 0 && written.Load() == before
	})
	p.cancel()
	if err := <-p.ended; err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(idle); err != nil {
		t.Errorf("idle: %v", err)
	}
	if n, err := io.Copy(io.Discard, busy); !wasReset(err) {
		t.Errorf("busy: %d bytes, then %v", n, err)
	}
	late := p.connect()
	_, _ = late.Write([]byte("e"))
	go func() { p.ended <- p.Run(t.Context()) }()
	if !echoes(late, "", "e") {
		t.Error("not served after the second Run")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := <-p.ended; err != nil {
		t.Error(err)
	}
	if err := p.Run(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Run after Close: %v", err)
	}
}

// With Drain who is connected may go on, who comes is not accepted; the deadline
// ends it.
func TestDrain(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	for _, stays := range []bool{false, true} {
		drain := time.Hour
		if stays {
			drain = 3 * time.Second
		}
		p := start(t, "tcp4", to{server.Addr()}, Options{Drain: drain})
		c := p.connect()
		if !echoes(c, "", "one") {
			t.Fatal("no echo")
		}
		p.cancel()
		become(t, "it is told", p.leave.Load)
		if !echoes(c, "", "two") || !echoes(c, "", "three") { // and by now it has looked
			t.Error("cut off though there was time")
		}
		late := p.connect()
		if !stays {
			_ = c.Close()
		}
		if err := <-p.ended; err != nil {
			t.Error(err)
		}
		if n := p.dialed.Load(); n != 1 {
			t.Errorf("%d accepted, the second came after the end", n)
		}
		_ = late.Close()
	}
}

// Many resets, half-closes and ends at random while the proxy ends: nothing is left.
func TestStorm(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	for round := range 5 {
		p := start(t, "tcp4", to{server.Addr()}, Options{MaxConns: 16})
		var wg sync.WaitGroup
		var clients []stream
		for i := range 48 {
			c := p.connect()
			clients = append(clients, c)
			wg.Go(func() {
				defer c.Close()
				switch i % 4 {
				case 0:
					linger(t, c)
					_, _ = c.Write(make([]byte, 300<<10))
				case 1:
					_ = c.CloseWrite()
					_, _ = io.Copy(io.Discard, c)
				case 2:
					_, _ = c.Write([]byte("x"))
					_, _ = c.Read(make([]byte, 1))
				case 3:
					_, _ = c.Write(make([]byte, 30<<10))
				}
			})
		}
		if round%2 == 0 {
			become(t, "some were served", func() bool { return p.dialed.Load() > 10 })
		} else {
			become(t, "all were served", func() bool { return p.dialed.Load() >= 48 && p.connections() == 0 })
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		for _, c := range clients { // some still wait in the queue
			_ = c.Close()
		}
		wg.Wait()
	}
}
