package test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// A connection on which nothing moves is closed after connection_timeout; one that is
// used now and then is not.
func TestProxyConnectionTimeout(t *testing.T) {
	const timeout = 3 * time.Second
	for _, target := range []string{"tcp :8000", "unix /run/app.sock"} {
		n := ktest.Port(t)
		a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), target, fmt.Sprintf("connection_timeout = %q\n", timeout))
		dial := func() net.Conn {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(patience))
			return c
		}
		greeted := func(c net.Conn) {
			for b := make([]byte, 1); b[0] != '\n'; {
				if _, err := c.Read(b); err != nil {
					t.Fatal(err)
				}
			}
		}
		idle, busy := dial(), dial()
		greeted(idle)
		greeted(busy)
		begin := time.Now()
		closed := make(chan error, 1)
		go func() {
			_, err := idle.Read(make([]byte, 1))
			closed <- err
		}()
		for len(closed) == 0 && time.Since(begin) < patience || time.Since(begin) < 2*timeout {
			if _, err := busy.Write([]byte("x")); err != nil {
				t.Fatalf("%s: the busy one after %v: %v", target, time.Since(begin), err)
			}
			if _, err := busy.Read(make([]byte, 1)); err != nil {
				t.Fatalf("%s: the busy one after %v: %v", target, time.Since(begin), err)
			}
			time.Sleep(timeout / 8)
		}
		select {
		case err := <-closed:
			if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: the idle one reads %v", target, err)
			}
		default:
			t.Errorf("%s: the idle one is not closed after %v", target, time.Since(begin))
		}
		if seen, err := talk(dial(), []byte("hello")); err != nil {
			t.Errorf("%s: the next one: %q, %v", target, seen, err)
		}
		if a.log.count("state=running") != 1 || syscall.Kill(pidOf(t, a, 1), 0) != nil {
			t.Errorf("%s: the program has not gone on", target)
		}
	}
}
