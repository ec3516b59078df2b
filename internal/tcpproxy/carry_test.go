package tcpproxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Everything arrives, both ways at once, in every combination and size, and the
// proxy forgets the connection.
func TestCarry(t *testing.T) {
	for _, pair := range combinations {
		for _, size := range []int{0, 1, 1000, copySize, 1 << 20, 32 << 20} {
			t.Run(fmt.Sprintf("%s to %s/%d", pair[0], pair[1], size), func(t *testing.T) {
				if size > 1<<20 && testing.Short() {
					t.Skip("short")
				}
				result := make(chan error, 2)
				exchange := func(c stream, mine, other byte) {
					var wg sync.WaitGroup
					var sent error
					wg.Go(func() { sent = errors.Join(writePattern(c, mine, size), c.CloseWrite()) })
					err := readPattern(c, other, size)
					if err != nil {
						c.Close() // whoever waits at the other end, waits for nothing
					}
					wg.Wait()
					result <- errors.Join(err, sent)
				}
				server := serve(t, pair[1], func(c stream) { exchange(c, 2, 1) })
				p := start(t, pair[0], to{server.Addr()}, Options{})
				exchange(p.connect(), 1, 2)
				for range 2 {
					if err := <-result; err != nil {
						t.Error(err)
					}
				}
				become(t, "nobody is connected", func() bool { return p.connections() == 0 })
			})
		}
	}
}

// The answer comes after the client has ended its half: what systemd-socket-proxyd
// before v261 lost.
func TestClientHalfCloses(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			server := serve(t, pair[1], func(c stream) {
				asked, err := io.ReadAll(c) // until the client's end
				_, _ = fmt.Fprintf(c, "%s %v", asked, err)
			})
			p := start(t, pair[0], to{server.Addr()}, Options{})
			c := p.connect()
			_, _ = c.Write([]byte("question"))
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil || string(got) != "question <nil>" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// The program ends its half first and still hears the client.
func TestProgramHalfCloses(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			heard := make(chan string, 1)
			server := serve(t, pair[1], func(c stream) {
				_, _ = c.Write([]byte("welcome"))
				_ = c.CloseWrite()
				b, err := io.ReadAll(c)
				heard <- fmt.Sprintf("%s %v", b, err)
			})
			p := start(t, pair[0], to{server.Addr()}, Options{})
			c := p.connect()
			if got, err := io.ReadAll(c); err != nil || string(got) != "welcome" {
				t.Fatalf("read %q, %v", got, err)
			}
			_, _ = c.Write([]byte("thanks"))
			_ = c.Close()
			if got := <-heard; got != "thanks <nil>" {
				t.Errorf("the program heard %q", got)
			}
		})
	}
}

// A reader that does not read costs one buffer, stops its writer, and nobody else.
func TestSlowReader(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			read := make(chan int)
			result := make(chan error, 1)
			server := serve(t, pair[1], func(c stream) {
				first := make([]byte, 1)
				_, _ = io.ReadFull(c, first)
				if first[0] == 'e' {
					_, _ = io.Copy(c, c)
					return
				}
				result <- readPattern(c, 7, <-read)
			})
			p := start(t, pair[0], to{server.Addr()}, Options{})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			c := p.connect()
			_, _ = c.Write([]byte("s"))
			written, b := 0, make([]byte, 64<<10)
			for {
				// It has stopped when a write takes a while.
				_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				pattern(b, 7, written)
				n, err := c.Write(b)
				written += n
				if err != nil {
					break
				}
				if written > 64<<20 {
					t.Fatalf("%d bytes were taken, and nobody reads", written)
				}
			}
			runtime.ReadMemStats(&after)
			if grown := int(after.HeapAlloc) - int(before.HeapAlloc); grown > 2<<20 {
				t.Errorf("%d bytes of memory for one that does not read", grown)
			}
			if other := p.connect(); !echoes(other, "e", "still here") {
				t.Error("another client waits too")
			}
			read <- written
			_ = c.CloseWrite()
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// echoes reports whether text comes back.
func echoes(c net.Conn, prefix, text string) bool {
	if _, err := c.Write([]byte(prefix + text)); err != nil {
		return false
	}
	b := make([]byte, len(text))
	_, err := io.ReadFull(c, b)
	return err == nil && string(b) == text
}

// One that moves bulk leaves the others their turn.
func TestBulkIsFair(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, struct{ io.Reader }{c}) })
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	end := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		c := p.connect()
		wg.Go(func() {
			b := make([]byte, 1<<20)
			for {
				select {
				case <-end:
					_ = c.Close()
					return
				default:
					_, _ = c.Write(b)
				}
			}
		})
		wg.Go(func() { _, _ = io.Copy(io.Discard, c) })
	}
	c := p.connect()
	slowest := time.Duration(0)
	for range 30 {
		began := time.Now()
		if !echoes(c, "", "ping") {
			t.Fatal("no echo")
		}
		slowest = max(slowest, time.Since(began))
	}
	close(end)
	wg.Wait()
	if slowest > time.Minute { // the others are never done
		t.Errorf("an echo beside bulk took %v", slowest)
	}
}

// Urgent bytes stay in the stream, and what comes behind them is not left behind.
func TestUrgent(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	fd, err := dial(p.addr, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want := []byte("before!after")
	for _, part := range []struct {
		text  string
		flags int
	}{{"before", 0}, {"!", unix.MSG_OOB}, {"after", 0}} {
		if err := unix.Sendto(fd, []byte(part.text), part.flags, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	for at := 0; at < len(got); {
		n, err := unix.Read(fd, got[at:])
		if err != nil || n == 0 {
			t.Fatalf("after %q: %v", got[:at], err)
		}
		at += n
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

// script is one random conversation: both ends write and read in random pieces,
// pause, and end their halves when they like.
type script struct{ seed [2]uint64 }

func (s script) play(c stream, mine, other byte, size, expect int) error {
	var wg sync.WaitGroup
	var sent error
	wg.Go(func() {
		r := rand.New(rand.NewPCG(s.seed[0], uint64(mine)))
		for at := 0; at < size && sent == nil; {
			b := make([]byte, min(size-at, piece(r)))
			pattern(b, mine, at)
			_, sent = c.Write(b)
			at += len(b)
			if r.IntN(8) == 0 {
				time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
			}
		}
		sent = errors.Join(sent, c.CloseWrite())
	})
	err := s.listen(c, other, expect)
	wg.Wait()
	return errors.Join(err, sent)
}

func (s script) listen(c stream, other byte, expect int) error {
	r := rand.New(rand.NewPCG(s.seed[1], uint64(other)))
	for at := 0; ; {
		b := make([]byte, piece(r))
		n, err := c.Read(b)
		want := make([]byte, n)
		pattern(want, other, at)
		if !bytes.Equal(b[:n], want) {
			return fmt.Errorf("other bytes between %d and %d", at, at+n)
		}
		if at += n; err == io.EOF && at == expect {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read at %d of %d: %w", at, expect, err)
		}
		if r.IntN(8) == 0 {
			time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		}
	}
}

// piece is mostly small, sometimes bulk.
func piece(r *rand.Rand) int { return 1 + r.IntN(1<<(4*r.IntN(6))) }

// FuzzInterleave: whatever the pieces and whoever ends first, every byte arrives and
// every connection ends.
func FuzzInterleave(f *testing.F) {
	for i := range 40 {
		f.Add(uint64(i), uint64(i*i+1), uint32(i*i*i*97), uint32((40-i)*(40-i)*131), uint8(i))
	}
	f.Fuzz(func(t *testing.T, a, b uint64, up, down uint32, pair uint8) {
		s := script{[2]uint64{a, b}}
		sizeUp, sizeDown := int(up%(3<<20)), int(down%(3<<20))
		result := make(chan error, 4)
		networks := combinations[int(pair)%len(combinations)]
		server := serve(t, networks[1], func(c stream) {
			_ = c.SetDeadline(time.Now().Add(waitTimeout))
			result <- s.play(c, 2, 1, sizeDown, sizeUp)
		})
		p := start(t, networks[0], to{server.Addr()}, Options{})
		for range 2 {
			go func() { result <- s.play(p.connect(), 1, 2, sizeUp, sizeDown) }()
		}
		for range 4 {
			if err := <-result; err != nil {
				t.Error(err)
			}
		}
		become(t, "nobody is connected", func() bool { return p.connections() == 0 })
	})
}

// A program that speaks first hears of its client at once: the last segment of the
// handshake waits for nobody's words, tcp(7), TCP_QUICKACK.
func TestProgramSpeaksFirst(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = c.Write([]byte("welcome")) })
	p := start(t, "tcp4", to{server.Addr()}, Options{})
	const most = 30 * time.Millisecond // a delayed acknowledgement takes 40 or 200, each time
	best := waitTimeout
	for n := 0; n < 5 || best > most && n < 500; n++ { // the processors may be busy
		began := time.Now()
		c := p.connect()
		if b := make([]byte, 7); !readsFull(c, b) || string(b) != "welcome" {
			t.Fatalf("read %q", b)
		}
		best = min(best, time.Since(began))
		_ = c.Close()
	}
	if best > most {
		t.Errorf("the best greeting of hundreds took %v, more than %v", best, most)
	}
}

// What a client says at once, all at once or before the program can be had, is
// carried whole, also with the end of its half right behind it.
func TestEarlyWords(t *testing.T) {
	for _, pair := range combinations {
		t.Run(pair[0]+" to "+pair[1], func(t *testing.T) {
			const size = 3 * copySize
			server := serve(t, pair[1], func(c stream) { _, _ = io.Copy(c, c) })
			f, addr := listener(t, pair[0], 64)
			var clients []stream
			for i := range 20 {
				c, err := net.Dial(addr.Network(), addr.String())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
				_ = c.SetDeadline(time.Now().Add(waitTimeout))
				clients = append(clients, c.(stream))
				if i%2 == 0 { // the others wait for their first byte
					if err := errors.Join(writePattern(c, byte(i), 1000), clients[i].CloseWrite()); err != nil {
						t.Fatal(err)
					}
				}
			}
			startAt(t, f, addr, to{server.Addr()}, Options{})
			var wg sync.WaitGroup
			for i, c := range clients {
				wg.Go(func() {
					want := 1000
					if i%2 == 1 {
						want = size
						wg.Go(func() { _ = errors.Join(writePattern(c, byte(i), size), c.CloseWrite()) })
					}
					if err := readPattern(c, byte(i), want); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				})
			}
			wg.Wait()
		})
	}
}
