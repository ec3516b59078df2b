package spec

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParseAddress(t *testing.T) {
	long := strings.Repeat("a", 106)
	for _, tt := range []struct{ in, want string }{
		{"tcp://127.0.0.1:3000", ""},
		{"udp://127.0.0.1:3000", ""},
		{"tcp://[::1]:3000", ""},
		{"udp://[::1]:3000", ""},
		{"tcp://:80", ""},
		{"udp://:65535", ""},
		{"tcp4://:80", ""},
		{"tcp6://:80", ""},
		{"udp4://:80", ""},
		{"udp6://:80", ""},
		// Forms that bind the same place.
		{"tcp://[::]:80", "tcp://:80"},
		{"tcp6://[::]:80", "tcp6://:80"},
		{"tcp6://[::1]:80", "tcp://[::1]:80"},
		{"tcp://0.0.0.0:80", "tcp4://:80"},
		{"udp4://0.0.0.0:80", "udp4://:80"},
		{"tcp4://10.0.0.1:80", "tcp://10.0.0.1:80"},
		{"udp6://[fe80::1%eth0]:80", "udp://[fe80::1%eth0]:80"},
		{"tcp://[fe80::1%2]:80", ""},
		{"tcp://[FE80:0::1%Eth0]:80", "tcp://[fe80::1%Eth0]:80"},
		{"unix:///run/x.sock", ""},
		{"unix:////run/./x//y/", "unix:///run/x/y"},
		{"unixgram:///run/x", ""},
		{"unixpacket://@x", ""},
		{"unix://@name with space/and/slash", ""},
		{"unix://@@", ""},
		{"unix:///" + long, ""},
		{"unix:///run/..x", ""},
		{"unix:///run/100%", ""},
		{"fifo:///" + strings.Repeat("a", 200), ""},
		{"vsock://:1", ""},
		{"vsock://4294967295:1234", "vsock://:1234"},
		{"vsock://0:4294967294", ""},
		// What systemd's own test-socket-netlink.c must parse, in our forms.
		{"tcp://:8888", ""},
		{"tcp://[2001:0db8:0000:85a3:0000:0000:ac1f:8001]:8888", "tcp://[2001:db8:0:85a3::ac1f:8001]:8888"},
		{"tcp://[::1]:8888", ""},
		{"tcp://[::1%lo]:1234", ""},
		{"tcp://192.168.1.254:8888", ""},
		{"unix:///foo/bar", ""},
		{"unix://@abstract", ""},
		{"unix://@" + long, ""},
		{"vsock://2:1234", ""},
		{"vsock://:1234", ""},
	} {
		want := tt.want
		if want == "" {
			want = tt.in
		}
		a, err := ParseAddress(tt.in)
		if err != nil {
			t.Errorf("%q: %v", tt.in, err)
			continue
		}
		if got := a.String(); got != want {
			t.Errorf("%q: got %q, want %q", tt.in, got, want)
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q: back from %q: %+v, %v, want %+v", tt.in, a, again, err, a)
		}
	}
}

// TestParseAddressRefused holds what must be refused and a word of the reason
// or cure that must be in the error.
func TestParseAddressRefused(t *testing.T) {
	long := strings.Repeat("a", 107)
	for _, tt := range []struct{ in, says string }{
		{"", "is empty"},
		{"tcp", "says no network"},
		{"tcp:", "says no network"},
		{"tcp://", "no port"},
		{"tcp:80", "says no network"},
		{"tcp:/127.0.0.1:80", `write "tcp://127.0.0.1:80"`},
		{"unix:/run/x", `write "unix:///run/x"`},
		{"TCP://:80", `write "tcp" in small letters`},
		{"http://:80", "unknown network"},
		{"://:80", "unknown network"},
		{"tcp://3000", `write "tcp://:3000"`},
		{"tcp://127.0.0.1", `write "tcp://127.0.0.1:PORT"`},
		{"tcp://127.0.0.1:", "port is empty"},
		{"tcp://127.0.0.1:http", "not a decimal number"},
		{"tcp://127.0.0.1:+80", "not a decimal number"},
		{"tcp://127.0.0.1:-1", "not a decimal number"},
		{"tcp://127.0.0.1: 80", "not a decimal number"},
		{"tcp://127.0.0.1:080", "leading zero"},
		{"tcp://127.0.0.1:0x50", "not a decimal number"},
		{"tcp://127.0.0.1:99999999999999999999", "too large"},
		{"tcp://127.0.0.1:80/", "ends after the port"},
		{"tcp://*:80", "empty host"},
		{"tcp://localhost:80", `write "127.0.0.1"`},
		{"tcp://example.com:80", "names are not looked up"},
		{"tcp://010.0.0.1:80", "not an IPv4 address"},
		{"tcp://1.2.3:80", "not an IPv4 address"},
		{"tcp://[127.0.0.1]:80", "only an IPv6 address"},
		{"tcp://[]:80", "only an IPv6 address"},
		{"tcp://[localhost]:80", "only an IPv6 address"},
		{"tcp4://[::1]:80", "takes only IPv4"},
		{"udp6://127.0.0.1:80", "takes only IPv6"},
		{"tcp://[::ffff:127.0.0.1]:80", `write "127.0.0.1"`},
		{"tcp://[::ffff:7f00:1]:80", `write "127.0.0.1"`},
		{"tcp://[::1:80", `"[" without "]"`},
		{"tcp://::1:80", "in brackets"},
		{"tcp://[fe80::1%]:80", "not an IPv6 address"},
		{"tcp://[fe80::1%a/b]:80", "ends after the port"},
		{"tcp://[fe80::1%sixteen-letters-]:80", "cannot be the name"},
		{"tcp://[fe80::1%a b]:80", "cannot be the name"},
		{"unix://", "no path"},
		{"unix://run/x", `write "unix:///run/x"`},
		{"unix://./x", "not absolute"},
		{"unix:///", "root folder"},
		{"unix:///run/../x", `".."`},
		{"unix:///run/..", `".."`},
		{"unix://@", "is empty"},
		{"unix:///" + long, "has 108 bytes"},
		{"unix:///" + strings.Repeat("é", 54), "has 109 bytes"},
		{"unix:///run/a\x00b", "NUL"},
		{"unix:///run/\xff", "UTF-8"},
		{"fifo://x", `write "fifo:///x"`},
		{"fifo://@x", "not absolute"},
		{"fifo:///" + strings.Repeat("a", 256), "has 256 bytes"},
		{"fifo:///" + strings.Repeat("a/", 2100), "the kernel takes 4095"},
		{"vsock://1", "no port"},
		{"vsock://1:", "port is empty"},
		{"vsock://1:0", "not one to listen on"},
		{"vsock://1:4294967295", "not one to listen on"},
		{"vsock://-1:80", "CID"},
		{"vsock://4294967296:80", "too large"},
		// What systemd's own test-socket-netlink.c must refuse, as it is there
		// and in our forms.
		{"junk", "says no network"},
		{"tcp://junk", "no port"},
		{"192.168.1.1", "says no network"},
		{"tcp://192.168.1.1", "no port"},
		{"tcp://.168.1.1", "no port"},
		{"tcp://.168.1.1:80", "not an IPv4 address"},
		{"tcp://989.168.1.1:80", "not an IPv4 address"},
		{"tcp://192.168.1.1:65536", "too large"},
		{"tcp://192.168.1.1:0", "port 0"},
		{"0", "says no network"},
		{"tcp://:0", "port 0"},
		{"tcp://:65536", "too large"},
		{"tcp://[::1]", "no port"},
		{"tcp://[::1]8888", `":PORT"`},
		{"tcp://::1", `write "tcp://[::1]:PORT"`},
		{"tcp://[::1]:0", "port 0"},
		{"tcp://[::1]:65536", "too large"},
		{"tcp://[a:b:1]:8888", "not an IPv6 address"},
		{"tcp://[::1]%lo:1234", "inside the brackets"},
		{"tcp://[::1]%lo:0", "inside the brackets"},
		{"tcp://[::1]%lo", "inside the brackets"},
		{"tcp://[::1]%lo%lo:1234", "inside the brackets"},
		{"tcp://[::1]% lo:1234", "inside the brackets"},
		{"tcp://[::1]:0%lo", "inside the brackets"},
		{"tcp://[::1]:1234%lo%lo", "inside the brackets"},
		{"tcp://[::1%lo%lo]:1234", "cannot be the name"},
		{"/", "says no network"},
		{"unix://@" + long, "has 108 bytes"},
		{"vsock://2:1234x", "not a decimal number"},
		{"vsock://2x:1234", "not a decimal number"},
		{"vsock://2", "no port"},
		// systemd's forms lead to ours.
		{"3000", `write "tcp://:3000"`},
		{"127.0.0.1:3000", `write "tcp://127.0.0.1:3000"`},
		{"[::1]:3000", `write "tcp://[::1]:3000"`},
		{"/run/x", `write "unix:///run/x"`},
		{"@x", `write "unix://@x"`},
		{"vsock:2:1234", `write "vsock://2:1234"`},
		{"vsock::1234", `write "vsock://:1234"`},
	} {
		a, err := ParseAddress(tt.in)
		if err == nil {
			t.Errorf("%q: accepted as %+v", tt.in, a)
			continue
		}
		if !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q: error %q does not say %q", tt.in, err, tt.says)
		}
	}
}

func TestAddressEqual(t *testing.T) {
	addrs := []string{
		"tcp://192.168.1.1:8888", "tcp://192.168.1.1:888", "tcp://192.16.1.1:8888", "udp://192.168.1.1:8888",
		"tcp://:8888", "tcp4://:8888", "tcp6://:8888", "tcp://[::1]:8888", "unix:///foo/bar", "unix://@/foo/bar",
		"unixgram:///foo/bar", "fifo:///foo/bar", "vsock://2:1234", "vsock://2:1235", "vsock://3:1234",
	}
	for i, x := range addrs {
		for j, y := range addrs {
			a, errA := ParseAddress(x)
			b, errB := ParseAddress(y)
			if errA != nil || errB != nil || (a == b) != (i == j) {
				t.Errorf("%s == %s: %v, %v, %v", x, y, a == b, errA, errB)
			}
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{
		"tcp://127.0.0.1:3000", "udp6://[fe80::1%eth0]:80", "tcp4://:1", "unix:///a//b/./c", "unix://@x", "fifo:///x",
		"vsock://:1", "vsock://4294967295:2", "tcp://[::ffff:1.2.3.4]:1", "3000", "vsock:1:2", "tcp:x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if (a != Address{}) {
				t.Fatalf("%q: %v, but an address: %+v", s, err, a)
			}
			return
		}
		again, err := ParseAddress(a.String())
		if err != nil || again != a {
			t.Fatalf("%q: %+v: back from %q: %+v, %v", s, a, a, again, err)
		}
	})
}

func TestAddressSocket(t *testing.T) {
	for text, want := range map[string]struct {
		kind      int
		four, six bool
	}{
		"tcp://:80": {unix.SOCK_STREAM, true, true}, "tcp4://:80": {unix.SOCK_STREAM, true, false}, "udp6://:80": {unix.SOCK_DGRAM, false, true},
		"udp://127.0.0.1:80": {unix.SOCK_DGRAM, true, false}, "tcp6://[::1]:80": {unix.SOCK_STREAM, false, true},
	} {
		a, err := ParseAddress(text)
		four, six := a.Families()
		if err != nil || a.Type() != want.kind || four != want.four || six != want.six {
			t.Errorf("%s: type %d, families %v %v: %v", text, a.Type(), four, six, err)
		}
	}
	for network, want := range map[Network]int{Unix: unix.SOCK_STREAM, UnixGram: unix.SOCK_DGRAM, UnixPacket: unix.SOCK_SEQPACKET, VSock: unix.SOCK_STREAM, FIFO: 0} {
		if got := (Address{Network: network}).Type(); got != want {
			t.Errorf("%s: type %d", network, got)
		}
	}
}
