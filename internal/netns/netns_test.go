package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

func addrPort(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

// What the program listens at is found by the target, and who connects is seen as
// the client, in IPv4 and IPv6, at any address.
func TestDial(t *testing.T) {
	for _, tt := range []struct {
		listens string
		target  spec.Address
		client  string
		sees    string // "PORT": any port
	}{
		{"tcp4 127.0.0.1:80", spec.Address{Network: spec.TCP, Port: 80}, "192.0.2.7:1234", "192.0.2.7:1234"},
		{"tcp4 0.0.0.0:80", spec.Address{Network: spec.TCP4, Port: 80}, "127.0.0.2:40000", "127.0.0.2:40000"},
		{"tcp4 0.0.0.0:80", spec.Address{Network: spec.TCP, IP: netip.MustParseAddr("10.1.2.3"), Port: 80}, "8.8.8.8:53", "8.8.8.8:53"},
		{"tcp6 [::]:80", spec.Address{Network: spec.TCP, Port: 80}, "[2001:db8::1]:7", "[2001:db8::1]:7"},
		{"tcp6 [::1]:80", spec.Address{Network: spec.TCP, IP: netip.MustParseAddr("::1"), Port: 80}, "[fe80::1]:777", "[fe80::1%lo]:777"},
		{"tcp [::]:80", spec.Address{Network: spec.TCP, Port: 80}, "192.0.2.7:1234", "192.0.2.7:1234"}, // dual stack
		{"tcp [::]:80", spec.Address{Network: spec.TCP, Port: 80}, "192.0.2.7:80", "192.0.2.7:PORT"},   // its own port
		{"tcp4 127.0.0.1:80", spec.Address{Network: spec.TCP, Port: 80}, "127.0.0.1:80", "127.0.0.1:PORT"},
		{"tcp4 127.0.0.1:80", spec.Address{Network: spec.TCP, Port: 80}, "[::1]:1234", "127.0.0.1:PORT"}, // no such family
		{"tcp4 127.0.0.1:80", spec.Address{Network: spec.TCP, Port: 80}, "", "127.0.0.1:PORT"},           // a unix client
		{"unix /PLACE/s", spec.Address{Network: spec.Unix, Path: "/PLACE/s"}, "192.0.2.7:1234", "@"},
		{"unix /PLACE/s", spec.Address{Network: spec.Unix, Path: "/PLACE/link"}, "", "@"},
		{"unix @name", spec.Address{Network: spec.Unix, Path: "@name"}, "", "@"},
	} {
		t.Run(tt.listens+" "+tt.client, func(t *testing.T) {
			place := strings.TrimPrefix(t.TempDir(), "/")
			if err := os.Symlink("s", "/"+place+"/link"); err != nil {
				t.Fatal(err)
			}
			tt.target.Path = strings.Replace(tt.target.Path, "PLACE", place, 1)
			i := newInmate(t)
			r := open(t, i.pid)
			if err := r.AllowLowPorts(); err != nil {
				t.Fatal(err)
			}
			d := target(t, r, tt.target, true)
			if there, err := d.FindSockets(); there || err != nil {
				t.Fatalf("before it listens: %v, %v", there, err)
			}
			i.told(strings.Replace(tt.listens, "PLACE", place, 1), "listens")
			if there, err := d.FindSockets(); !there || err != nil {
				t.Fatalf("it is not found: %v, %v", there, err)
			}
			for range 3 {
				got := greeting(t, d, tt.client)
				if host, any := strings.CutSuffix(tt.sees, "PORT"); got != tt.sees && !(any && strings.HasPrefix(got, host)) {
					t.Errorf("it sees %q, want %q", got, tt.sees)
				}
			}
		})
	}
}

// Who listens elsewhere, or to datagrams, or in another network, is not found.
func TestLookFindsNobodyElse(t *testing.T) {
	i := newInmate(t)
	place := t.TempDir()
	other := newInmate(t)
	other.told("tcp :8000", "listens")
	other.told("unix "+place+"/s", "listens")
	other.told("unix @name", "listens")
	i.told("tcp 127.0.0.1:8001", "listens")
	i.told("unixpacket "+place+"/packet", "listens")
	r := open(t, i.pid)
	for _, a := range []spec.Address{
		{Network: spec.TCP, Port: 8000}, {Network: spec.TCP6, Port: 8001}, {Network: spec.TCP, IP: netip.MustParseAddr("127.0.0.2"), Port: 8001},
		{Network: spec.Unix, Path: place + "/s"}, {Network: spec.Unix, Path: place + "/packet"}, {Network: spec.Unix, Path: "@name"}, {Network: spec.Unix, Path: place + "/none"},
	} {
		if there, err := target(t, r, a, true).FindSockets(); there || err != nil {
			t.Errorf("%v: %v, %v", a, there, err)
		}
	}
}

// A program that does not listen any more refuses, and is found again.
func TestDialRefused(t *testing.T) {
	i := newInmate(t)
	r := open(t, i.pid)
	path := filepath.Join(t.TempDir(), "s")
	for _, tt := range []struct {
		listens string
		target  spec.Address
	}{{"tcp4 127.0.0.1:8000", spec.Address{Network: spec.TCP4, Port: 8000}}, {"unix " + path, spec.Address{Network: spec.Unix, Path: path}}} {
		i.told(tt.listens, "listens")
		d := target(t, r, tt.target, true)
		if there, err := d.FindSockets(); !there || err != nil {
			t.Fatal(there, err)
		}
		i.told("away", "closed")
		for range 2 {
			fd, err := d.Dial(addrPort("127.0.0.2:2000"))
			if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
				t.Errorf("%s: %d, %v", tt.listens, fd, err)
			}
		}
		i.told(tt.listens, "listens")
		if greeting(t, d, "127.0.0.2:2000") == "" {
			t.Errorf("%s: not found again", tt.listens)
		}
	}
}

// The child shares our memory: nothing of ours notices, whatever else runs.
func TestChildrenBesideWork(t *testing.T) {
	i := newInmate(t)
	stop := make(chan struct{})
	var work sync.WaitGroup
	for range 2 {
		work.Go(func() {
			kept := make(map[int]string)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					kept[n%1000] = fmt.Sprint(n)
				}
			}
		})
	}
	var all sync.WaitGroup
	for range 4 {
		r := open(t, i.pid)
		all.Go(func() {
			for range 200 {
				fds, err := r.makeSockets(spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}, spec.Kind{Family: unix.AF_UNIX, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK})
				if err != nil {
					t.Error(err)
					return
				}
				for _, fd := range fds {
					if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
						t.Errorf("flags %x: %v", flags, err)
					}
				}
				closeAll(fds)
			}
		})
	}
	all.Wait()
	close(stop)
	work.Wait()
}

// All or none: what cannot be made leaves nothing (TestMain looks), and says why.
func TestErrors(t *testing.T) {
	i := newInmate(t)
	r := open(t, i.pid)
	if fds, err := r.makeSockets(spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}, spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK, Protocol: 99}); !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("%v, %v", fds, err)
	}
	r.Close()
	if _, err := r.makeSockets(spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}); !errors.Is(err, unix.EBADF) || !strings.HasPrefix(err.Error(), "setns") {
		t.Errorf("%v", err)
	}
	if _, err := OpenProgram(1 << 30); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v", err)
	}
}

func BenchmarkSockets(b *testing.B) {
	for _, n := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r := open(b, newInmate(b).pid)
			kinds := make([]spec.Kind, n)
			for i := range kinds {
				kinds[i] = spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK}
			}
			for b.Loop() {
				fds, err := r.makeSockets(kinds...)
				if err != nil {
					b.Fatal(err)
				}
				closeAll(fds)
			}
		})
	}
}

// What the program accepts, and what we connect, is not paced, whatever the host has.
func TestUseReno(t *testing.T) {
	i := newInmate(t)
	r := open(t, i.pid)
	if err := r.UseReno(); err != nil {
		t.Fatal(err)
	}
	for _, domain := range []int{unix.AF_INET, unix.AF_INET6} {
		fds, err := r.makeSockets(spec.Kind{Family: domain, Type: unix.SOCK_STREAM | unix.SOCK_NONBLOCK})
		if err != nil {
			t.Fatal(err)
		}
		got, err := unix.GetsockoptString(fds[0], unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		closeAll(fds)
		if got != "reno" || err != nil {
			t.Errorf("a socket inside has %q, %v", got, err)
		}
	}
}
