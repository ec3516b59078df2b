package relay

import (
	"net"
	"testing"
)

func client(t testing.TB, network, from string) net.PacketConn {
	t.Helper()
	c, err := net.ListenPacket(network, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestUDPAddresses(t *testing.T) {
	m := newMaker(t)
	for _, row := range []struct{ name, network, host, clientNetwork, client, ask string }{
		{"v4", "udp4", "127.0.0.1:0", "udp4", "127.0.0.1:0", ""},
		{"v4 another address", "udp4", "127.0.0.1:0", "udp4", "127.9.8.7:0", ""},
		{"v6", "udp6", "[::1]:0", "udp6", "[::1]:0", ""},
		{"wildcard v4", "udp4", "0.0.0.0:0", "udp4", "127.0.0.1:0", "127.0.0.1"},
		{"wildcard v4, another address asked", "udp4", "0.0.0.0:0", "udp4", "127.0.0.1:0", "127.0.0.2"},
		{"wildcard v6", "udp6", "[::]:0", "udp6", "[::1]:0", "::1"},
		{"dual stack, v6 client", "udp", "[::]:0", "udp6", "[::1]:0", "::1"},
		{"dual stack, v4 client", "udp", "[::]:0", "udp4", "127.0.0.1:0", "127.0.0.3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			f, host := hostSocket(t, row.network, row.host)
			d := standIn(t, m, f, Options{})
			run(t, d)
			inner := service(t, d)
			if inner.LocalAddr().String() != host.LocalAddr().String() {
				t.Errorf("the inner socket is at %v, the host's at %v", inner.LocalAddr(), host.LocalAddr())
			}
			to := *host.LocalAddr().(*net.UDPAddr)
			if row.ask != "" {
				to.IP = net.ParseIP(row.ask)
			}
			c := client(t, row.clientNetwork, row.client)
			if _, err := c.WriteTo([]byte("question"), &to); err != nil {
				t.Fatal(err)
			}
			text, from := receive(t, inner)
			if text != "question" || from.String() != c.LocalAddr().String() {
				t.Errorf("the service sees %q from %v, not from %v", text, from, c.LocalAddr())
			}
			if _, err := inner.WriteTo([]byte("answer"), from); err != nil {
				t.Fatal(err)
			}
			text, from = receive(t, c)
			if text != "answer" || from.String() != to.String() {
				t.Errorf("the client sees %q from %v, not from %v", text, from, &to)
			}
		})
	}
}
