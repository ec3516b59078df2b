package test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

const (
	requests = 6000
	clients  = 16
)

// tally counts what became of the requests.
type tally struct {
	answered atomic.Int64
	cut      atomic.Int64 // the process that had taken the request was killed
	lost     atomic.Int64
}

// ended is the number of requests of which it is known what became of them.
func (tl *tally) ended() int64 { return tl.answered.Load() + tl.cut.Load() + tl.lost.Load() }

// many sends so many requests from several clients at once.
func many(t *testing.T, tl *tally, total int, one func(i int) error) {
	t.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > total {
					return
				}
				switch err := one(i); {
				case err == nil:
					tl.answered.Add(1)
				case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.ENOTCONN):
					tl.cut.Add(1)
				default:
					if tl.lost.Add(1) <= 5 {
						t.Errorf("request %d: %v", i, err)
					}
				}
			}
		})
	}
	wg.Wait()
}

// ask is one request over one connection.
func ask(network, addr string, i int) error {
	c, err := net.Dial(network, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		return err
	}
	want := fmt.Sprintf("request %d", i)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	if s, ok := c.(interface{ CloseWrite() error }); ok {
		if err := s.CloseWrite(); err != nil {
			return err
		}
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	if string(got) != want {
		return fmt.Errorf("answer %q, want %q", got, want)
	}
	return nil
}

// The rest is set small: what is counted here is clients, not time.
const quick = "restart_delay = \"1ms\"\nrestart_max_delay = \"5ms\"\n"

// A service that ends by itself after every 20th answer loses no client.
func TestNoClientLostToExits(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix", "udp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			a, addr := echoAt(t, network, `exec = ["ECHO", "--exit-after", "20"]`)
			var tl tally
			many(t, &tl, requests, func(i int) error { return ask(network, addr, i) })
			if n := tl.answered.Load(); n != requests {
				t.Errorf("%d of %d answered, %d cut, %d lost", n, requests, tl.cut.Load(), tl.lost.Load())
			}
			a.stop()
			starts := a.log.count("state=running")
			t.Logf("%s: %d answered by %d processes", network, tl.answered.Load(), starts)
			if starts < requests/20/clients {
				t.Errorf("only %d starts: the service does not end as it should", starts)
			}
		})
	}
}

// A service that is killed at random loses only what it had already taken: every
// request that still stands in the queue is answered by the next process.
func TestNoClientLostToKills(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix", "udp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			a, addr := echoAt(t, network, `exec = ["ECHO"]`)
			stop := make(chan struct{})
			kills := make(chan int)
			var tl tally
			go func() { kills <- killAtRandom(a, stop, &tl, 60) }()
			many(t, &tl, requests, func(i int) error {
				if network == "udp" {
					return askDatagram(addr, i)
				}
				return ask(network, addr, i)
			})
			close(stop)
			n := <-kills
			t.Logf("%s: %d answered, %d cut by %d kills, %d lost", network, tl.answered.Load(), tl.cut.Load(), n, tl.lost.Load())
			if tl.answered.Load()+tl.cut.Load() != requests || tl.lost.Load() != 0 {
				t.Errorf("the count is not exact")
			}
			if most := int64(n * clients); tl.cut.Load() > most {
				t.Errorf("%d cut by %d kills: more than they can have taken", tl.cut.Load(), n)
			}
			if n < 20 {
				t.Errorf("only %d kills", n)
			}
		})
	}
}

// askDatagram sends one request. A datagram that a killed process had taken is
// cut; a client that waits for its answer cannot know, and gives up after a time.
// Each client has an address of its own: one that gave up while its datagram stood in
// the queue leaves its port to another, and the answer with it.
func askDatagram(addr string, i int) error {
	own := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 1, byte(i>>8), byte(i))}}
	c, err := own.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	want := fmt.Sprintf("request %d", i)
	if _, err := c.Write([]byte(want)); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	got := make([]byte, 64)
	n, err := c.Read(got)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if string(got[:n]) != want {
		return fmt.Errorf("answer %q, want %q", got[:n], want)
	}
	return nil
}

// echoAt activates a service at one fresh address of the network.
func echoAt(t *testing.T, network, service string) (*activator, string) {
	t.Helper()
	dir := folder(t)
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	if network == "unix" {
		addr = dir + "/s"
	}
	return activate(t, "--config", configureIn(t, dir, "echo",
		fmt.Sprintf("[[socket]]\nlisten = [\"%s://%s\"]\n[service]\n%s%s\n", network, addr, quick, service))), addr
}

// killAtRandom kills each run of the service once fewer than most requests, as chance
// says, have come to an end, until stop is closed, and returns how many it killed.
// It counts requests, not time: a slow machine would answer none before it is killed.
func killAtRandom(a *activator, stop chan struct{}, tl *tally, most int) int {
	kills, seen, pid := 0, 0, 0
	for due := int64(0); ; {
		for text := a.log.all(); pid == 0 && seen < len(text); seen++ {
			if hasAll(text[seen], []string{"state=running"}) {
				pid, _ = strconv.Atoi(field(text[seen], "pid"))
				due = tl.ended() + rand.Int64N(int64(most))
			}
		}
		if pid > 0 && tl.ended() >= due {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
			pid = 0
		}
		select {
		case <-stop:
			return kills
		case <-time.After(time.Millisecond):
		}
	}
}
