package sockdiag

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// here asks about our own namespace.
func here(t testing.TB, f func(socket int) error) {
	t.Helper()
	if err := WithSocket(f); err != nil {
		t.Fatal(err)
	}
}

// A listener and a connection are found, each by its state, with what they are bound to, and
// whether somebody has a descriptor of them.
func TestTCP(t *testing.T) {
	for _, tt := range []struct {
		network, at string
		family      int
	}{{"tcp4", "127.0.0.1:0", unix.AF_INET}, {"tcp6", "[::1]:0", unix.AF_INET6}} {
		l, err := net.Listen(tt.network, tt.at)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // no IPv6
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		at := netip.MustParseAddrPort(l.Addr().String())
		client, err := net.Dial(tt.network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		listeners, connections := 0, 0
		q := Inet{Family: tt.family, Protocol: unix.IPPROTO_TCP, States: Listening | Established, Port: at.Port()}
		here(t, func(socket int) error {
			return q.Each(socket, func(s *InetSocket) {
				switch {
				case s.Local != at || s.Cookie == 0:
					t.Errorf("%+v", s)
				case s.State == Listening && s.Inode != 0 && s.Unread == 1:
					listeners++
				case s.State == Established && s.Inode == 0 && s.Remote.String() == client.LocalAddr().String():
					connections++ // not accepted yet
				default:
					t.Errorf("%+v", s)
				}
			})
		})
		if listeners != 1 || connections != 1 {
			t.Errorf("%s: %d listeners, %d connections", tt.at, listeners, connections)
		}
	}
}

// The socket that a datagram would go to is found at once, with what it has not read.
func TestUDP(t *testing.T) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	q := Inet{Family: unix.AF_INET, Protocol: unix.IPPROTO_UDP, States: Unconnected, Port: at.Port(), Memory: true}
	look := func() (each, one InetSocket) {
		here(t, func(socket int) error {
			return errors.Join(q.Each(socket, func(s *InetSocket) { each = *s }), q.ToLoopback(socket, at.Addr(), func(s *InetSocket) { one = *s }))
		})
		return each, one
	}
	before, again := look()
	if before != again || before.Local != at || before.Unread != 0 || before.Room <= 0 {
		t.Errorf("%+v, %+v", before, again)
	}
	if _, err := c.WriteTo(make([]byte, 1000), c.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	after, again := look()
	if after != again || after.Cookie != before.Cookie || after.Unread < 1000 || after.Room >= before.Room {
		t.Errorf("%+v, %+v", after, again)
	}
	_ = c.Close()
	err = WithSocket(func(socket int) error {
		return q.ToLoopback(socket, at.Addr(), func(s *InetSocket) { t.Errorf("%+v", s) })
	})
	if !errors.Is(err, unix.ENOENT) || !strings.HasPrefix(err.Error(), "sock_diag") {
		t.Errorf("nobody there: %v", err)
	}
}

// A unix listener is found by its inode, and among all, with its name, its node and its queue.
func TestUnix(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var node, socket unix.Stat_t
	if err := unix.Stat(path, &node); err != nil {
		t.Fatal(err)
	}
	if err := fd.Control(l.(*net.UnixListener), func(fd int) error { return unix.Fstat(fd, &socket) }); err != nil {
		t.Fatal(err)
	}
	found := 0
	see := func(s *UnixSocket) {
		if string(s.Name) != path+"\x00" {
			return
		}
		found++
		if s.Type != unix.SOCK_STREAM || s.State != Listening || s.Inode != uint32(socket.Ino) || s.Node.Inode != uint32(node.Ino) || len(s.Queue) != 4 {
			t.Errorf("%+v", s)
		}
	}
	show := ShowName | ShowNode | ShowQueue
	for _, q := range []Unix{{Inode: uint32(socket.Ino), States: AnyState, Show: show}, {States: Listening, Show: show}} {
		here(t, func(socket int) error { return q.Each(socket, see) })
	}
	if found != 2 {
		t.Errorf("found %d times", found)
	}
	err = WithSocket(func(s int) error { return Unix{Inode: 1, States: AnyState}.Each(s, see) })
	if !errors.Is(err, unix.ENOENT) {
		t.Errorf("none with that inode: %v", err)
	}
}

// What the kernel refuses is told, and so is what it cannot have said.
func TestExchangeFails(t *testing.T) {
	err := WithSocket(func(socket int) error {
		return Exchange(socket, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_ACK, []byte{99, 0, 0, 0}, func([]byte) {})
	})
	if err == nil {
		t.Error("a family that there is not")
	}
	if err := Exchange(-1, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_ACK, nil, nil); !errors.Is(err, unix.EBADF) {
		t.Errorf("of no socket: %v", err)
	}
	header := func(size uint32, kind uint16, body ...byte) []byte {
		b := binary.NativeEndian.AppendUint32(nil, size)
		b = binary.NativeEndian.AppendUint16(b, kind)
		return append(append(b, make([]byte, 10)...), body...)
	}
	minus := binary.NativeEndian.AppendUint32(nil, ^uint32(unix.EPERM)+1)
	for name, tt := range map[string]struct {
		b    []byte
		done bool
		err  error
		each int
	}{
		"done":           {header(16, unix.NLMSG_DONE), true, nil, 0},
		"acknowledged":   {header(20, unix.NLMSG_ERROR, 0, 0, 0, 0), true, nil, 0},
		"refused":        {header(20, unix.NLMSG_ERROR, minus...), true, unix.EPERM, 0},
		"without errno":  {header(16, unix.NLMSG_ERROR), true, unix.EBADMSG, 0},
		"too short":      {header(15, unix.NLMSG_DONE), true, unix.EBADMSG, 0},
		"too long":       {header(17, unix.NLMSG_DONE), true, unix.EBADMSG, 0},
		"one, and more":  {header(17, 99, 1, 0, 0, 0), false, nil, 1},
		"one, then done": {append(header(17, 99, 1, 0, 0, 0), header(16, unix.NLMSG_DONE)...), true, nil, 1},
		"nothing":        {nil, false, nil, 0},
	} {
		each := 0
		done, err := splitPart(tt.b, func(body []byte) { each++ })
		if done != tt.done || err != tt.err || each != tt.each {
			t.Errorf("%s: %v, %v, %d", name, done, err, each)
		}
	}
}

func FuzzSplit(f *testing.F) {
	f.Add([]byte{20, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var i InetSocket
		var u UnixSocket
		for _, read := range []func([]byte) bool{i.decodeMessage, u.decodeMessage} {
			_, _ = splitPart(b, func(body []byte) { read(body) })
			read(b)
		}
		if u.decodeMessage(b) && len(b) < 16 || i.decodeMessage(b) && len(b) < inetSize {
			t.Errorf("%x", b)
		}
	})
}

// BenchmarkOne is the look that a relay takes at a program's queue.
func BenchmarkOne(b *testing.B) {
	c, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	q := Inet{Family: unix.AF_INET, Protocol: unix.IPPROTO_UDP, States: Unconnected, Port: at.Port(), Memory: true}
	b.ReportAllocs()
	here(b, func(socket int) error {
		for b.Loop() {
			if err := q.ToLoopback(socket, at.Addr(), func(*InetSocket) {}); err != nil {
				return err
			}
		}
		return nil
	})
}

func BenchmarkEach(b *testing.B) {
	b.ReportAllocs()
	q := Inet{Family: unix.AF_INET, Protocol: unix.IPPROTO_TCP, States: Listening, Port: 9}
	here(b, func(socket int) error {
		for b.Loop() {
			if err := q.Each(socket, func(*InetSocket) {}); err != nil {
				return err
			}
		}
		return nil
	})
}
