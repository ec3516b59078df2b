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
	t.Parallel()
	for _, target := range []string{"tcp :8000", "unix /run/app.sock"} {
		t.Run(target, func(t *testing.T) {
			t.Parallel()
			connectionTimeout(t, target)
		})
	}
}

func connectionTimeout(t *testing.T, target string) {
	const timeout = 3 * time.Second
	n := ktest.Port(t)
	a := carriedAt(t, fmt.Sprintf("tcp://127.0.0.1:%d", n), target, fmt.Sprintf("connection_timeout = %q\n", timeout))
	dial := func() net.Conn {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
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
	for len(closed) == 0 && time.Since(begin) < waitTimeout || time.Since(begin) < 2*timeout {
		if _, err := busy.Write([]byte("x")); err != nil {
			t.Fatalf("the busy one after %v: %v", time.Since(begin), err)
		}
		if _, err := busy.Read(make([]byte, 1)); err != nil {
			t.Fatalf("the busy one after %v: %v", time.Since(begin), err)
		}
		time.Sleep(timeout / 8)
	}
	select {
	case err := <-closed:
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the idle one reads %v", err)
		}
	default:
		t.Errorf("the idle one is not closed after %v", time.Since(begin))
	}
	if seen, err := talk(dial(), []byte("hello")); err != nil {
		t.Errorf("the next one: %q, %v", seen, err)
	}
	if a.log.count("state=running") != 1 || syscall.Kill(pidOf(t, a, 1), 0) != nil {
		t.Error("the program has not gone on")
	}
}
