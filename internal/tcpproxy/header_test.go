package tcpproxy

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

const signature = "0d0a0d0a000d0a515549540a"

// Against the bytes of the specification.
func TestHeader(t *testing.T) {
	v4, v4to := netip.MustParseAddrPort("203.0.113.9:5555"), netip.MustParseAddrPort("192.0.2.1:443")
	v6, v6to := netip.MustParseAddrPort("[2001:db8::9]:65535"), netip.MustParseAddrPort("[fe80::1%2]:1")
	mapped, none := netip.MustParseAddrPort("[::ffff:203.0.113.9]:5555"), netip.AddrPort{}
	for _, c := range []struct {
		name     string
		from, to netip.AddrPort
		v1, v2   string
	}{
		{"v4", v4, v4to, "PROXY TCP4 203.0.113.9 192.0.2.1 5555 443\r\n", "2111000c" + "cb007109" + "c0000201" + "15b3" + "01bb"},
		{"v6", v6, v6to, "PROXY TCP6 2001:db8::9 fe80::1 65535 1\r\n",
			"21210024" + "20010db8000000000000000000000009" + "fe800000000000000000000000000001" + "ffff" + "0001"},
		{"mapped", mapped, v4to, "PROXY TCP4 203.0.113.9 192.0.2.1 5555 443\r\n", "2111000c" + "cb007109" + "c0000201" + "15b3" + "01bb"},
		{"unix", none, none, "PROXY UNKNOWN\r\n", "21000000"},
		{"mixed", v4, v6to, "PROXY UNKNOWN\r\n", "21000000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(appendHeader(nil, "v1", c.from, c.to)); got != c.v1 {
				t.Errorf("v1: %q, want %q", got, c.v1)
			}
			if got := hex.EncodeToString(appendHeader(nil, "v2", c.from, c.to)); got != signature+c.v2 {
				t.Errorf("v2: %s, want %s", got, signature+c.v2)
			}
			if got := appendHeader([]byte("x"), "", c.from, c.to); string(got) != "x" {
				t.Errorf("none: %q", got)
			}
		})
	}
}

// The header comes first and at once, also before the client has said anything.
func TestHeaderArrives(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		for _, version := range []string{"v1", "v2"} {
			t.Run(network+" "+version, func(t *testing.T) {
				heard := make(chan []byte, 1)
				server := serve(t, "tcp4", func(c stream) {
					b := make([]byte, 200)
					n, _ := c.Read(b)
					_, _ = c.Write([]byte("!"))
					rest, _ := io.ReadAll(c)
					heard <- append(b[:n], rest...)
				})
				p := start(t, network, to{server.Addr()}, Options{Protocol: version})
				c := p.connect()
				_, _ = io.ReadFull(c, make([]byte, 1))
				_, _ = c.Write([]byte("body"))
				_ = c.CloseWrite()
				want := string(appendHeader(nil, version, addrPort(c.LocalAddr()), addrPort(p.addr))) + "body"
				if version == "v1" && network == "tcp4" {
					want = fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\nbody", addrPort(c.LocalAddr()).Port(), addrPort(p.addr).Port())
				}
				if got := <-heard; !bytes.Equal(got, []byte(want)) {
					t.Errorf("got %q, want %q", got, want)
				}
			})
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		at := tcp.AddrPort()
		return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	}
	return netip.AddrPort{}
}

// The dialer sees whose connection it makes.
func TestClient(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	for _, network := range []string{"tcp4", "tcp6", "unix"} {
		seen := make(chan [2]netip.AddrPort, 1)
		p := start(t, network, watching{to{server.Addr()}, seen}, Options{})
		c := p.connect()
		if !echoes(c, "", "hi") {
			t.Fatal("no echo")
		}
		if got, want := <-seen, [2]netip.AddrPort{addrPort(c.LocalAddr()), addrPort(p.addr)}; got != want {
			t.Errorf("%s: %v, want %v", network, got, want)
		}
	}
}

type watching struct {
	to
	seen chan [2]netip.AddrPort
}

func (w watching) Dial(c *Client) (int, error) {
	w.seen <- [2]netip.AddrPort{c.Addr(), c.Local()}
	return w.to.Dial(c)
}

// Whatever the kernel writes, an address is read without harm, and its header is
// one that the specification knows.
func FuzzAddress(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, uint32(16))
	f.Add(append([]byte{10, 0, 0, 80, 0, 0, 0, 0, 0xfe, 0x80}, make([]byte, 18)...), uint32(28))
	f.Add([]byte{1, 0, '/', 'x', 0}, uint32(5))
	f.Fuzz(func(t *testing.T, b []byte, n uint32) {
		a := sockaddr.Raw{N: n}
		copy(a.B[:], b)
		at := addrPortOf(&a)
		v1 := string(appendHeader(nil, "v1", at, at))
		if len(v1) > 107 || !strings.HasSuffix(v1, "\r\n") || at.IsValid() == strings.Contains(v1, "UNKNOWN") {
			t.Errorf("v1: %q", v1)
		}
		v2 := appendHeader(nil, "v2", at, at)
		if len(v2) < 16 || len(v2) != 16+int(v2[14])<<8+int(v2[15]) {
			t.Errorf("v2: %q", v2)
		}
	})
}

// Small messages leave at once on both sides, and what is urgent stays.
func TestSocketOptions(t *testing.T) {
	server := serve(t, "tcp4", func(c stream) { _, _ = io.Copy(c, c) })
	seen := make(chan string, 1)
	p := start(t, "tcp4", optionsOf{to{server.Addr()}, seen}, Options{})
	if !echoes(p.connect(), "", "hi") {
		t.Fatal("no echo")
	}
	if got, want := <-seen, "accepted 1 1, connecting 1 1"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

type optionsOf struct {
	to
	seen chan string
}

func (o optionsOf) Dial(c *Client) (int, error) {
	fd, err := o.to.Dial(c)
	value := func(fd, level, name int) int {
		v, _ := readOption(int32(fd), level, name)
		return min(v, 1)
	}
	o.seen <- fmt.Sprintf("accepted %d %d, connecting %d %d",
		value(int(c.fd), unix.IPPROTO_TCP, unix.TCP_NODELAY), value(int(c.fd), unix.SOL_SOCKET, unix.SO_OOBINLINE),
		value(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY), value(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE))
	return fd, err
}
