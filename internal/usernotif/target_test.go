package usernotif

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func inet4(port byte, ip ...byte) []byte {
	return append([]byte{unix.AF_INET, 0, 0, port, ip[0], ip[1], ip[2], ip[3]}, make([]byte, 8)...)
}

func inet6(port byte, ip string) []byte {
	a := netip.MustParseAddr(ip).As16()
	raw := append([]byte{unix.AF_INET6, 0, 0, port, 0, 0, 0, 0}, a[:]...)
	return append(raw, 0, 0, 0, 0)
}

func TestParseName(t *testing.T) {
	for _, tt := range []struct {
		domain   int
		v6Only   bool
		sockaddr []byte
		want     string // "": none
	}{
		{unix.AF_INET, false, inet4(80, 127, 0, 0, 1), "tcp://127.0.0.1:80"},
		{unix.AF_INET, false, inet4(80, 0, 0, 0, 0), "tcp4://:80"},
		{unix.AF_INET, false, inet4(0, 0, 0, 0, 0), ""},
		{unix.AF_INET, false, inet4(80, 0, 0, 0, 0)[:15], ""},
		{unix.AF_INET, false, append([]byte{0, 0}, inet4(80, 0, 0, 0, 0)[2:]...), "tcp4://:80"},
		{unix.AF_INET, false, append([]byte{0, 0}, inet4(80, 127, 0, 0, 1)[2:]...), ""},
		{unix.AF_INET, false, inet6(80, "::"), ""},
		{unix.AF_INET6, false, inet6(80, "::"), "tcp://:80"},
		{unix.AF_INET6, true, inet6(80, "::"), "tcp6://:80"},
		{unix.AF_INET6, false, inet6(80, "::1"), "tcp://[::1]:80"},
		{unix.AF_INET6, false, inet6(80, "::1")[:24], "tcp://[::1]:80"},
		{unix.AF_INET6, false, inet6(80, "::1")[:23], ""},
		{unix.AF_INET6, false, inet6(80, "::ffff:127.0.0.1"), "tcp://127.0.0.1:80"},
		{unix.AF_INET6, false, inet6(80, "::ffff:0.0.0.0"), "tcp4://:80"},
		{unix.AF_INET6, true, inet6(80, "::ffff:127.0.0.1"), ""},
		{unix.AF_INET6, false, inet4(80, 0, 0, 0, 0), ""},
		{unix.AF_UNIX, false, []byte("\x01\x00/run/x"), "unix:///run/x"},
		{unix.AF_UNIX, false, []byte("\x01\x00/run/x\x00more"), "unix:///run/x"},
		{unix.AF_UNIX, false, []byte("\x01\x00\x00x\x00y"), "unix://@x\x00y"},
		{unix.AF_UNIX, false, []byte("\x01\x00\x00"), ""},
		{unix.AF_UNIX, false, []byte("\x01\x00@x"), "unix://./@x"},
		{unix.AF_UNIX, false, []byte("\x01\x00"), ""},
		{unix.AF_UNIX, false, []byte("\x02\x00/run/x"), ""},
		{unix.AF_UNIX, false, []byte("\x01"), ""},
		{unix.AF_NETLINK, false, []byte("\x10\x00aaaaaaaaaa"), ""},
	} {
		n, ok := parseName(tt.domain, unix.SOCK_STREAM, tt.v6Only, tt.sockaddr)
		if ok != (tt.want != "") || ok && n.String() != tt.want {
			t.Errorf("domain %d, v6only %v, %q: %s %v, want %q", tt.domain, tt.v6Only, tt.sockaddr, n, ok, tt.want)
		}
	}
}

// Which of several targets somebody gets.
func TestBest(t *testing.T) {
	at := func(text string) Target { return Target{Address: parsed(text)} }
	dual, four, six := at("tcp://:80"), at("tcp4://:80"), at("tcp6://:80")
	local, local6, scoped := at("tcp://127.0.0.1:80"), at("tcp://[::1]:80"), at("tcp://[fe80::1%eth0]:80")
	mapped := Target{Address: six.Address, Mapped: true} // its kind makes no difference here
	udp, run, other, abstract := at("udp://:80"), at("unix:///run/x"), at("unix:///var/run/y"), at("unix://@x")
	in4 := func(ip ...byte) name {
		n, _ := parseName(unix.AF_INET, unix.SOCK_STREAM, false, inet4(80, ip...))
		return n
	}
	in6 := func(ip string, only bool) name {
		n, _ := parseName(unix.AF_INET6, unix.SOCK_STREAM, only, inet6(80, ip))
		return n
	}
	path := func(p string) name { return name{kind: unix.SOCK_STREAM, path: p} }
	for _, tt := range []struct {
		targets []Target
		name    name
		want    *Target
	}{
		{[]Target{dual}, in4(0, 0, 0, 0), &dual},
		{[]Target{dual}, in4(127, 0, 0, 1), &dual},
		{[]Target{dual}, in6("::", false), &dual},
		{[]Target{dual}, in6("::", true), &dual},
		{[]Target{dual, four, six}, in4(0, 0, 0, 0), &four},
		{[]Target{dual, four, six}, in6("::", true), &six},
		{[]Target{six, four, dual}, in6("::", false), &dual},
		{[]Target{four, six}, in6("::", false), &four}, // the first: it serves one of them at least
		{[]Target{four}, in6("::1", false), nil},
		{[]Target{four}, in6("::ffff:127.0.0.1", false), &four},
		{[]Target{six}, in4(0, 0, 0, 0), nil},
		{[]Target{mapped}, in6("::ffff:127.0.0.1", false), &mapped},
		{[]Target{mapped}, in6("::", false), &mapped},
		{[]Target{mapped, four}, in4(0, 0, 0, 0), &four},
		{[]Target{dual, local}, in4(127, 0, 0, 1), &local},
		{[]Target{local}, in4(0, 0, 0, 0), nil},
		{[]Target{local}, in4(127, 0, 0, 2), nil},
		{[]Target{local6}, in6("::", false), nil},
		{[]Target{local6}, in6("::1", true), &local6},
		{[]Target{scoped}, in6("fe80::1", true), &scoped},
		{[]Target{udp}, in4(0, 0, 0, 0), nil},
		{[]Target{run, other, abstract}, path("/run//x"), &run},
		{[]Target{run, other, abstract}, path("/var/run/x"), &run},
		{[]Target{run, other, abstract}, path("/run/y"), &other},
		{[]Target{run, other, abstract}, path("@x"), &abstract},
		{[]Target{run, other, abstract}, path("x").makeAbsolute(func() string { return "/run" }), &run},
		{[]Target{run, other, abstract}, path("/x"), nil},
		{[]Target{run, dual}, name{kind: unix.SOCK_STREAM}, nil},
	} {
		i := findTarget(tt.targets, tt.name)
		if (i < 0) != (tt.want == nil) || i >= 0 && tt.targets[i] != *tt.want {
			t.Errorf("%v gets %d of %v, want %v", tt.name, i, tt.targets, tt.want)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add(unix.AF_INET, false, inet4(80, 127, 0, 0, 1))
	f.Add(unix.AF_INET6, true, inet6(80, "::"))
	f.Add(unix.AF_UNIX, false, []byte("\x01\x00/run/x"))
	f.Add(unix.AF_UNIX, false, []byte("\x01\x00\x00x"))
	f.Fuzz(func(t *testing.T, domain int, v6Only bool, sockaddr []byte) {
		n, ok := parseName(domain, unix.SOCK_STREAM, v6Only, sockaddr)
		if !ok {
			return
		}
		switch {
		case (n.path == "") == (n.port == 0):
			t.Errorf("neither or both of %q and port %d", n.path, n.port)
		case n.path != "" && n.path[0] != '@' && strings.Contains(n.path, "\x00"):
			t.Errorf("a path with NUL: %q", n.path)
		case n.path == "" && (!n.ip.IsValid() || !n.four && !n.six || n.ip.Is4() && n.six || n.four && n.six && !n.ip.IsUnspecified()):
			t.Errorf("families of %v: %v %v", n.ip, n.four, n.six)
		case n.String() == "":
			t.Error("no name")
		}
	})
}

// A call that took long has the next one wait for longer still, within bounds.
func TestPaceOfDearCalls(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		10 * time.Microsecond: paceEvery, 5 * time.Millisecond: paceShare * 5 * time.Millisecond, time.Minute: paceMost,
	} {
		p := pace{least: paceEvery, most: paceMost, since: time.Now().Add(time.Hour)} // nothing has gathered
		p.noteCost(took)
		start := time.Now()
		if !p.waitForTurn(t.Context()) {
			t.Fatal("not let through")
		}
		if waited := time.Since(start); waited < want {
			t.Errorf("after a call of %v the next one waits %v, want %v", took, waited, want)
		}
	}
}

// Whoever asks without end waits.
func TestPace(t *testing.T) {
	p := pace{least: paceEvery, most: paceMost}
	start := time.Now()
	const more = 50
	for range paceBurst + more {
		if !p.waitForTurn(t.Context()) {
			t.Fatal("not let through")
		}
	}
	if took := time.Since(start); took < more/2*paceEvery {
		t.Errorf("%d calls took only %v", paceBurst+more, took)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range paceBurst { // what has gathered meanwhile
		if !p.waitForTurn(gone) {
			return
		}
	}
	t.Error("waits although it is over")
}
