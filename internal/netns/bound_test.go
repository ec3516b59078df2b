package netns

import (
	"fmt"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

func boundAt(t testing.TB, r *Program, a spec.Address) *Bound {
	t.Helper()
	b, err := r.NewBound(a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// sendAs sends a datagram to what b has found, as client who has asked an address, and
// returns whom the program has seen.
func sendAs(t *testing.T, b *Bound, client netip.AddrPort, asked netip.Addr) (seen string) {
	t.Helper()
	to, own := b.FindAddress(client.Addr(), asked)
	if !to.IsValid() {
		t.Fatal("there is nowhere to send it")
	}
	domain, source := unix.AF_INET, client
	if to.Addr().Is6() {
		domain = unix.AF_INET6
	}
	if !own {
		source = netip.AddrPortFrom(to.Addr(), 0)
	}
	fds, err := b.MakeSockets(domain, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(fds)
	if err := unix.Bind(fds[0], sockaddrOf(source)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendto(fds[0], []byte("hello"), 0, sockaddrOf(to)); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fds[0]), Events: unix.POLLIN}}, 10_000); n != 1 {
		t.Fatalf("no answer: %v", err)
	}
	buf := make([]byte, 100)
	n, _, err := unix.Recvfrom(fds[0], buf, 0)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// What the program has bound is found by the target, and it sees the client and, if
// it has bound every address, what the client has asked.
func TestBound(t *testing.T) {
	any := spec.Address{Network: spec.UDP, Port: 53}
	for _, tt := range []struct {
		binds         string
		target        spec.Address
		client, asked string
		toward        string
		own           bool
	}{
		{"udp4 127.0.0.1:53", any, "192.0.2.7:1234", "198.51.100.1", "127.0.0.1:53", true},
		{"udp4 0.0.0.0:53", spec.Address{Network: spec.UDP4, Port: 53}, "192.0.2.7:1234", "198.51.100.1", "198.51.100.1:53", true},
		{"udp4 0.0.0.0:53", spec.Address{Network: spec.UDP, IP: netip.MustParseAddr("10.1.2.3"), Port: 53}, "8.8.8.8:53000", "", "10.1.2.3:53", true},
		{"udp6 [::]:53", any, "[2001:db8::1]:7", "2001:db8::53", "[2001:db8::53]:53", true},
		{"udp [::]:53", any, "192.0.2.7:1234", "198.51.100.1", "198.51.100.1:53", true}, // dual stack
		{"udp [::]:53", any, "192.0.2.7:1234", "", "127.0.0.1:53", true},
		{"udp6 [::1]:53", any, "[fe80::1]:777", "fe80::2", "[::1]:53", true},
		{"udp6 [::]:53", any, "[fe80::1]:777", "fe80::2", "[fe80::2]:53", true},
		{"udp4 127.0.0.1:53", any, "[2001:db8::1]:7", "::1", "127.0.0.1:53", false}, // no such family
		{"udp6 [::]:53", spec.Address{Network: spec.UDP6, Port: 53}, "192.0.2.7:1234", "127.0.0.1", "[::1]:53", false},
	} {
		t.Run(fmt.Sprint(tt.binds, " ", tt.client, " ", tt.asked), func(t *testing.T) {
			i := newInmate(t)
			r := open(t, i.pid)
			if err := r.AllowLowPorts(); err != nil {
				t.Fatal(err)
			}
			b := boundAt(t, r, tt.target)
			if q, err := b.ReadQueue(); q.There || err != nil {
				t.Fatalf("before it has bound: %+v, %v", q, err)
			}
			i.told(tt.binds, "listens")
			if there, err := b.FindSockets(); !there || err != nil {
				t.Fatalf("it is not found: %v, %v", there, err)
			}
			client, asked := addrPort(tt.client), netip.Addr{}
			if tt.asked != "" {
				asked = netip.MustParseAddr(tt.asked)
			}
			if to, own := b.FindAddress(client.Addr(), asked); to.String() != tt.toward || own != tt.own {
				t.Fatalf("toward %v, own address %v, want %s, %v", to, own, tt.toward, tt.own)
			}
			seen := sendAs(t, b, client, asked)
			if who := netip.MustParseAddrPort(seen); (netip.AddrPortFrom(who.Addr().Unmap().WithZone(""), who.Port()) == client) != tt.own {
				t.Errorf("%s is seen as %s", client, seen)
			}
		})
	}
}

// Queue counts what the program has not read, of one socket and of many, and notices
// that it has closed one. Others' sockets are none of it.
func TestBoundQueue(t *testing.T) {
	for _, sockets := range []int{1, 4} {
		t.Run(fmt.Sprint(sockets), func(t *testing.T) {
			i := newInmate(t)
			r := open(t, i.pid)
			b := boundAt(t, r, spec.Address{Network: spec.UDP, Port: 5300})
			other := newInmate(t)
			other.told("silent 127.0.0.1:5300", "listens")
			i.told("tcp 127.0.0.1:5300", "listens")
			i.told("silent 127.0.0.1:5301", "listens")
			if q, err := b.ReadQueue(); q.There || err != nil {
				t.Fatalf("somebody else's is found: %+v, %v", q, err)
			}
			for n := range sockets {
				i.told(fmt.Sprintf("silent 127.0.0.%d:5300", n+1), "listens")
			}
			q, err := b.ReadQueue()
			if !q.There || q.Unread != 0 || q.Room <= 0 || q.Gone != 0 || err != nil {
				t.Fatalf("it has read everything: %+v, %v", q, err)
			}
			fds, err := b.MakeSockets(unix.AF_INET, 1)
			if err != nil {
				t.Fatal(err)
			}
			defer closeAll(fds)
			if err := unix.Bind(fds[0], sockaddrOf(addrPort("192.0.2.1:53001"))); err != nil {
				t.Fatal(err)
			}
			if err := unix.Sendto(fds[0], make([]byte, 1000), 0, sockaddrOf(addrPort("127.0.0.1:5300"))); err != nil {
				t.Fatal(err)
			}
			full, err := b.ReadQueue()
			if full.Unread < 1000 || full.Room >= q.Room || err != nil {
				t.Errorf("with a datagram: %+v, and %+v without: %v", full, q, err)
			}
			i.told("read 127.0.0.1:5300", "hello")
			if q, err := b.ReadQueue(); q.Unread != 0 || q.Gone != 0 || err != nil {
				t.Errorf("it has read it: %+v, %v", q, err)
			}
			i.told("gone 127.0.0.1:5300", "closed")
			if q, err := b.ReadQueue(); q.Gone != 1 || err != nil {
				t.Errorf("it has closed one: %+v, %v", q, err)
			}
		})
	}
}

func BenchmarkQueue(b *testing.B) {
	for _, sockets := range []int{1, 4} {
		b.Run(fmt.Sprint(sockets), func(b *testing.B) {
			i := newInmate(b)
			bound := boundAt(b, open(b, i.pid), spec.Address{Network: spec.UDP4, Port: 5300})
			for n := range sockets {
				i.told(fmt.Sprintf("silent 127.0.0.%d:5300", n+1), "listens")
			}
			for b.Loop() {
				if q, err := bound.ReadQueue(); !q.There || err != nil {
					b.Fatal(q, err)
				}
			}
		})
	}
}

func sockaddrOf(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	six := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	if a.Addr().IsLinkLocalUnicast() {
		six.ZoneId = loopback
	}
	return six
}
