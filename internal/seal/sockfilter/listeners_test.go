package sockfilter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/ktest"
	"activator/internal/spec"
)

func tcp4() spec.Kind { return kind(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP) }
func tcp6() spec.Kind { return kind(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP) }

// openListeners opens for a test, which skips for an ordinary user.
func openListeners(tb testing.TB) *Listeners {
	tb.Helper()
	ktest.Filters(tb)
	l, err := OpenListeners()
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		if ok, detail, cure := ListenerAbility(); ok || detail == "" || cure == "" {
			tb.Errorf("got %v, %q, %q", ok, detail, cure)
		}
		tb.Skipf("sealing needs root, and says so: %v", err)
	}
	if err != nil {
		ktest.Skip(tb, "%v", err)
	}
	tb.Cleanup(l.Close)
	return l
}

// listening returns a socket that listens on the loopback, and its address.
func listening(t *testing.T, fd int) unix.Sockaddr {
	t.Helper()
	var any unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); family == unix.AF_INET6 {
		any = &unix.SockaddrInet6{Addr: [16]byte{15: 1}}
	}
	if err := unix.Bind(fd, any); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 8); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func sealedListener(t *testing.T, l *Listeners, k spec.Kind) int {
	t.Helper()
	sockets, err := l.MakeSockets([]spec.Kind{k})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeFiles(sockets) })
	return fdOf(t, sockets[0])
}

// accepted returns a new client's connection.
func accepted(t *testing.T, listener int, at unix.Sockaddr, k spec.Kind) int {
	t.Helper()
	if err := unix.Connect(plainSocket(t, k), at); err != nil {
		t.Fatal(err)
	}
	connection, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(connection) })
	return connection
}

// A sealed listener, and what it has accepted, cannot connect: dissolved, by fast open, and when the programs'
// loader is gone. Another socket can.
func TestListenerConnectsNowhere(t *testing.T) {
	l := openListeners(t)
	for _, k := range []spec.Kind{tcp4(), tcp6()} {
		elsewhere := listening(t, plainSocket(t, k))
		listener := sealedListener(t, l, k)
		at := listening(t, listener)
		connection := accepted(t, listener, at, k)
		l.Close() // twice is fine
		for name, fd := range map[string]int{"listener": listener, "connection": connection, "another": plainSocket(t, k)} {
			_ = ktest.Dissolve(fd)
			want := unix.EPERM
			if name == "another" {
				want = 0
			}
			if err := unix.Connect(fd, elsewhere); errnoOf(err) != want {
				t.Errorf("%s: connect: %v, want %v", name, err, want)
			}
			_ = ktest.Dissolve(fd)
			if err := unix.Sendto(fd, []byte("x"), unix.MSG_FASTOPEN, elsewhere); errnoOf(err) != want {
				t.Errorf("%s: MSG_FASTOPEN: %v, want %v", name, err, want)
			}
		}
		l = openListeners(t)
	}
}

func errnoOf(err error) (errno unix.Errno) {
	errors.As(err, &errno)
	return errno
}

// harmful are values of the options that are withheld.
func harmful(o *sockopt.Option) []byte {
	word := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	switch o.Text {
	case "SO_LINGER":
		return append(word(1), word(0)...)
	case "SO_RCVTIMEO", "SO_SNDTIMEO", "SO_RCVTIMEO_NEW", "SO_SNDTIMEO_NEW":
		return binary.NativeEndian.AppendUint64(binary.NativeEndian.AppendUint64(nil, 1), 0)
	case "SO_RCVBUF", "SO_SNDBUF":
		return word(4608)
	case "TCP_CONGESTION":
		return []byte("reno")
	case "IP_MTU_DISCOVER", "IPV6_MTU_DISCOVER":
		return word(unix.IP_PMTUDISC_PROBE)
	}
	return word(1)
}

func read(t *testing.T, fd int, o *sockopt.Option) string {
	t.Helper()
	var buf [64]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.Level), uintptr(o.Name), uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		t.Fatalf("%s: %v", o.Text, errno)
	}
	return string(buf[:size])
}

func set(t *testing.T, fd int, o *sockopt.Option, value []byte) {
	t.Helper()
	if err := unix.SetsockoptString(fd, o.Level, o.Name, string(value)); err != nil {
		t.Errorf("%s: %v", o.Text, err)
	}
}

// What those who wait would inherit is not set on a sealed listener, though the call seems to work, and is on what it
// has accepted. On a plain one it is, and inherited: each option can harm.
func TestWithheldOptions(t *testing.T) {
	l := openListeners(t)
	names := 0
	for _, k := range []spec.Kind{tcp4(), tcp6()} {
		names += checkWithheld(t, l, k)
	}
	if names < 2*14 {
		t.Errorf("%d options", names)
	}
}

// checkWithheld returns how many options it has looked at.
func checkWithheld(t *testing.T, l *Listeners, k spec.Kind) (names int) {
	listener, plain := sealedListener(t, l, k), plainSocket(t, k)
	at, plainAt := listening(t, listener), listening(t, plain)
	for i := range sockopt.Table {
		o := &sockopt.Table[i]
		if o.Use&sockopt.Withheld == 0 || o.Level == unix.IPPROTO_IPV6 && k.Family == unix.AF_INET {
			continue
		}
		names++
		fresh := read(t, listener, o)
		set(t, listener, o, harmful(o))
		if o.Name == unix.TCP_DEFER_ACCEPT && o.Level == unix.IPPROTO_TCP { // it keeps the connections themselves back
			if now := read(t, listener, o); now != fresh {
				t.Errorf("%s: %q, was %q", o.Text, now, fresh)
			}
			continue
		}
		set(t, plain, o, harmful(o))
		connection := accepted(t, listener, at, k)
		if now, inherited := read(t, listener, o), read(t, connection, o); now != fresh || inherited == read(t, plain, o) {
			t.Errorf("%s: %q, was %q; inherited as %q", o.Text, now, fresh, inherited)
		}
		if now, inherited := read(t, plain, o), read(t, accepted(t, plain, plainAt, k), o); now == fresh || inherited != now {
			t.Errorf("%s of a plain listener: %q, was %q; inherited as %q", o.Text, now, fresh, inherited)
		}
		set(t, connection, o, harmful(o))
		if now := read(t, connection, o); now != read(t, plain, o) {
			t.Errorf("%s of a connection: %q, want %q", o.Text, now, read(t, plain, o))
		}
	}
	// One that is not withheld, and each by its level.
	if err := unix.SetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		t.Error(err)
	}
	if on, err := unix.GetsockoptInt(listener, unix.IPPROTO_TCP, unix.TCP_NODELAY); on == 0 || err != nil {
		t.Errorf("TCP_NODELAY: %d, %v", on, err)
	}
	return names
}

// We set what is withheld with the password, and nobody does with another, or by a longer value.
func TestPassword(t *testing.T) {
	l := openListeners(t)
	fresh, changed := sealedListener(t, l, tcp4()), plainSocket(t, tcp4())
	for i := range sockopt.Table {
		if o := &sockopt.Table[i]; o.Use&sockopt.Withheld != 0 && o.Level != unix.IPPROTO_IPV6 {
			set(t, changed, o, harmful(o))
		}
	}
	listening(t, fresh)
	listening(t, changed)
	for _, wrong := range [][]byte{bytes.Repeat([]byte{0}, sockopt.WithPassword), bytes.Repeat([]byte{1}, 4096)} {
		if err := unix.SetsockoptString(fresh, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, string(wrong)); err != nil {
			t.Error(err)
		}
	}
	before, like := sockopt.RecordState(fresh), sockopt.RecordState(changed)
	if found, stuck := before.Restore(fresh); len(found) > 0 || stuck != "" {
		t.Errorf("%q, %q had changed", found, stuck)
	}
	if _, stuck := like.Restore(fresh); stuck == "" {
		t.Error("it is set without the password")
	}
	like.Password = l.Password()
	if found, stuck := like.Restore(fresh); len(found) < 10 || stuck != "" {
		t.Errorf("with the password: %q, %q", found, stuck)
	}
	before.Password = l.Password()
	if found, stuck := before.Restore(fresh); len(found) < 10 || stuck != "" {
		t.Errorf("back: %q, %q", found, stuck)
	}
}

// A listener that its service has shut down could listen again: it withholds as before, and so does one that is not
// bound yet.
func TestWithheldOfClosed(t *testing.T) {
	l := openListeners(t)
	shut := sealedListener(t, l, tcp4())
	listening(t, shut)
	if err := unix.Shutdown(shut, unix.SHUT_RD); err != nil {
		t.Fatal(err)
	}
	for name, fd := range map[string]int{"shut down": shut, "fresh": sealedListener(t, l, tcp4())} {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5); err != nil {
			t.Error(err)
		}
		if n, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); n != 0 || err != nil {
			t.Errorf("%s: %d, %v", name, n, err)
		}
	}
}

// Only TCP sockets are made, all or none.
func TestListenerKinds(t *testing.T) {
	l := openListeners(t)
	for _, k := range []spec.Kind{udp4(), kind(unix.AF_UNIX, unix.SOCK_STREAM, 0), kind(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP)} {
		if sockets, err := l.MakeSockets([]spec.Kind{tcp4(), k}); err == nil || len(sockets) != 0 {
			t.Errorf("%v: got %v, %v", k, sockets, err)
		}
	}
}

// BenchmarkOption is what setting an option costs on a connection, with and without the programs.
func BenchmarkOption(b *testing.B) {
	l := openListeners(b)
	sockets, err := l.MakeSockets([]spec.Kind{tcp4()})
	if err != nil {
		b.Fatal(err)
	}
	defer closeFiles(sockets)
	for name, fd := range map[string]int{"sealed": fdOf(b, sockets[0]), "plain": plainSocket(b, tcp4())} {
		for option, text := range map[int]string{unix.TCP_NODELAY: "TCP_NODELAY", unix.TCP_USER_TIMEOUT: "TCP_USER_TIMEOUT"} {
			b.Run(name+"/"+text, func(b *testing.B) {
				for b.Loop() {
					_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, 1)
				}
			})
		}
	}
}
