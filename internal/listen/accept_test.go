package listen

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestPeerAt(t *testing.T) {
	for _, tt := range []struct{ address, source, addr string }{
		{"192.0.2.7", "192.0.2.7", "192.0.2.7"},
		{"::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"},
		{"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6"},
		{"2001:db8:1:2::", "2001:db8:1:2::/64", "2001:db8:1:2::"},
		{"::1", "::/64", "::1"},
		{"fe80::1%3", "fe80::/64", "fe80::1%3"},
	} {
		got := peerAt(netip.MustParseAddr(tt.address), 80)
		if got != (Peer{Source: tt.source, Addr: tt.addr, Port: "80"}) {
			t.Errorf("%s: %+v", tt.address, got)
		}
	}
}

// Each connection is taken once, in order, with who is at its other end.
func TestAccept(t *testing.T) {
	dir := t.TempDir()
	port := ktest.Port(t)
	uid := fmt.Sprint("uid:", os.Getuid())
	for _, tt := range []struct {
		address      string
		local        net.Addr
		network, at  string
		source, addr string
	}{
		{fmt.Sprintf("tcp://:%d", port), nil, "tcp4", fmt.Sprintf("127.0.0.1:%d", port), "127.0.0.1", "127.0.0.1"},
		{fmt.Sprintf("tcp://:%d", port), nil, "tcp6", fmt.Sprintf("[::1]:%d", port), "::/64", "::1"},
		{"unix://" + dir + "/s", nil, "unix", dir + "/s", uid, ""},
		{"unix://" + dir + "/s", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, "peer")}, "unix", dir + "/s", uid, filepath.Join(dir, "peer")},
		{"unixpacket://" + dir + "/p", &net.UnixAddr{Net: "unixpacket", Name: "@activator-peer-" + fmt.Sprint(os.Getpid())}, "unixpacket", dir + "/p", uid, "@activator-peer-" + fmt.Sprint(os.Getpid())},
	} {
		for _, nonBlocking := range []bool{false, true} {
			address, err := spec.ParseAddress(tt.address)
			if err != nil {
				t.Fatal(err)
			}
			s, err := openOne(spec.Socket{Address: address, Options: spec.Options{NonBlocking: nonBlocking}}, Means{})
			if err != nil {
				t.Fatal(err)
			}
			acceptOne(t, s, tt.local, tt.network, tt.at, Peer{Source: tt.source, Addr: tt.addr}, nonBlocking)
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if unixAddr, ok := tt.local.(*net.UnixAddr); ok {
				_ = os.Remove(unixAddr.Name)
			}
		}
	}
}

func acceptOne(t *testing.T, s *Socket, local net.Addr, network, at string, want Peer, nonBlocking bool) {
	t.Helper()
	if c, err := s.Accept(); c != nil || err != nil {
		t.Errorf("%v: nobody is there, but %v, %v", s, c, err)
	}
	d := net.Dialer{LocalAddr: local}
	client, err := d.Dial(network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := s.Accept()
	if err != nil || c == nil {
		t.Fatalf("%v: %v, %v", s, c, err)
	}
	defer c.File.Close()
	if c.Peer.Port == "" != (client.LocalAddr().Network() != "tcp") {
		t.Errorf("%v: port %q", s, c.Peer.Port)
	}
	if c.Peer.Port = ""; c.Peer != want {
		t.Errorf("%v: %+v, want %+v", s, c.Peer, want)
	}
	err = control(c.File, func(fd int) error {
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
		if flags&unix.O_NONBLOCK != 0 != nonBlocking {
			t.Errorf("%v: flags %#x", s, flags)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if c, err := s.Accept(); c != nil || err != nil {
		t.Errorf("%v: it came twice: %v, %v", s, c, err)
	}
}
