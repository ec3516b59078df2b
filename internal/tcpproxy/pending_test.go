package tcpproxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// aside is a [Pending].
type aside chan struct {
	fd   int
	said []byte
}

func (a aside) Put(fd int, said []byte) {
	a <- struct {
		fd   int
		said []byte
	}{fd, said}
}

func (a aside) Take() (int, []byte, bool) {
	select {
	case x := <-a:
		return x.fd, x.said, true
	default:
		return -1, nil, false
	}
}

// nobody listens.
type nobody struct{ asked atomic.Int64 }

func (n *nobody) Dial(*Client) (int, error) {
	n.asked.Add(1)
	return -1, errRefused
}

// echoing is a program.
func echoing(t *testing.T, network string) Dialer {
	return to{serve(t, network, func(c stream) {
		_, _ = io.Copy(c, struct{ io.Reader }{c})
		_ = c.CloseWrite()
	}).Addr()}
}

// A client that was accepted for a program that has gone is the next run's, with what it
// has said, and before those in the queue.
func TestPending(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		t.Run(network, func(t *testing.T) {
			f, addr := listener(t, network, 512)
			pending, gone := make(aside, 1), &nobody{}
			first := startOn(t, Route{Listener: f, Dialer: gone, Pending: pending}, addr, Options{Drain: waitTimeout})
			c := first.connect()
			if _, err := c.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			become(t, "it is accepted", func() bool { return gone.asked.Load() > 0 })
			first.cancel()
			if err := <-first.ended; err != nil {
				t.Fatal(err)
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if len(pending) != 1 {
				t.Fatalf("%d are pending", len(pending))
			}
			second := startOn(t, Route{Listener: f, Dialer: echoing(t, network), Pending: pending}, addr, Options{MaxConns: 1})
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(c); string(answer) != "hello" || err != nil {
				t.Errorf("the first client: %q, %v", answer, err)
			}
			if n := second.dialed.Load(); n != 1 {
				t.Errorf("%d were dialed for", n)
			}
		})
	}
}

// late refuses the first after it has taken what it said: its socket is connecting still.
type late struct {
	dead net.Addr
	then Dialer
	n    atomic.Int64
}

func (l *late) Dial(c *Client) (int, error) {
	if l.n.Add(1) == 1 {
		return to{l.dead}.Dial(c)
	}
	return l.then.Dial(c)
}

// A connection that is refused only after a while loses nobody, and nothing that was said.
func TestRefusedLate(t *testing.T) {
	full, dead := listener(t, "tcp4", 0)
	first, err := net.Dial("tcp4", dead.String()) // the queue has room for one, and drops the next one's SYN: listen(2)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	f, addr := listener(t, "tcp4", 512)
	dialer := &late{dead: dead, then: echoing(t, "tcp4")}
	p := startOn(t, Route{Listener: f, Dialer: dialer, Pending: make(aside, 1)}, addr, Options{})
	c := p.connect()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	become(t, "it is connecting", func() bool { return dialer.n.Load() == 1 })
	if err := full.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if answer, err := io.ReadAll(c); string(answer) != "hello" || err != nil || dialer.n.Load() < 2 {
		t.Errorf("%q, %v after %d:\n%s", answer, err, dialer.n.Load(), p.log)
	}
}

// The run that serves him may have a header to send, which the last one had not.
func TestPendingBehindHeader(t *testing.T) {
	f, addr := listener(t, "tcp4", 512)
	pending := make(aside, 1)
	c, err := net.Dial("tcp4", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	said := bytes.Repeat([]byte("hello"), (copySize-mostHeader)/5) // as much as is read at once
	err = fd.Control(f, func(socket int) error {
		accepted, _, err := unix.Accept4(socket, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		pending.Put(accepted, said)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	startOn(t, Route{Listener: f, Dialer: echoing(t, "tcp4"), Pending: pending}, addr, Options{Protocol: "v2"})
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	const header = 16 + 12 // of IPv4, section 2.2
	answer, err := io.ReadAll(c)
	if len(answer) != header+len(said) || !bytes.HasSuffix(answer, said) || err != nil {
		t.Errorf("%d bytes of %d, %v: %.20q", len(answer), header+len(said), err, answer)
	}
}
