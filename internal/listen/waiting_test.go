package listen

import (
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// Who waits is listed one by one, is the same at the next look, and is gone when
// accepted or turned away, whoever else comes.
func TestWaiting(t *testing.T) {
	unixPath := filepath.Join(t.TempDir(), "s")
	for _, address := range []string{"tcp://127.0.0.1:%d", "tcp://[::1]:%d", "tcp://:%d", "unix://" + unixPath, "unixpacket://@waiting-%d"} {
		t.Run(address, func(t *testing.T) {
			if address != "unix://"+unixPath {
				address = fmt.Sprintf(address, ktest.Port(t))
			}
			s := mustOpen(t, address)
			if got := whoWaits(t, s); len(got) != 0 {
				t.Fatalf("nobody came, and %v wait", got)
			}
			for range 3 {
				dialSocket(t, s)
			}
			first := whoWaits(t, s)
			if again := whoWaits(t, s); len(first) != 3 || fmt.Sprint(again) != fmt.Sprint(first) {
				t.Fatalf("three came: %v, then %v", first, again)
			}
			if n, err := s.RefuseClients(1); n != 1 || err != nil {
				t.Fatalf("Refuse(1) = %d, %v", n, err)
			}
			dialSocket(t, s)
			seen := make(map[Client]bool)
			for _, c := range first {
				seen[c] = true
			}
			stayed := 0
			for _, c := range whoWaits(t, s) {
				if seen[c] {
					stayed++
				}
			}
			if stayed != 2 {
				t.Errorf("%d of the first three are left, want 2", stayed)
			}
		})
	}
}

func TestWaitingDatagram(t *testing.T) {
	s := mustOpen(t, fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)))
	for _, text := range []string{"a", "b"} {
		c := dialSocket(t, s)
		if _, err := c.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	first := whoWaits(t, s)
	if again := whoWaits(t, s); len(first) != 1 || again[0] != first[0] {
		t.Fatalf("the head of the queue is %v, then %v", first, again)
	}
	if n, err := s.RefuseClients(1); n != 1 || err != nil {
		t.Fatalf("Refuse(1) = %d, %v", n, err)
	}
	if next := whoWaits(t, s); len(next) != 1 || next[0] == first[0] {
		t.Errorf("after the first: %v", next)
	}
}

func whoWaits(t *testing.T, s *Socket) []Client {
	t.Helper()
	got, err := s.WaitingClients()
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func mustOpen(t *testing.T, address string) *Socket {
	t.Helper()
	a, err := spec.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openOne(spec.Socket{Address: a, Name: "test"}, Means{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func dialSocket(t *testing.T, s *Socket) net.Conn {
	t.Helper()
	a := s.Spec().Address
	target := a.Path
	if target == "" {
		ip := a.IP.String()
		if !a.IP.IsValid() {
			ip = "127.0.0.1"
		}
		target = net.JoinHostPort(ip, fmt.Sprint(a.Port))
	}
	c, err := net.Dial(string(a.Network), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
