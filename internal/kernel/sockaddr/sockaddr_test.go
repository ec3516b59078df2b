package sockaddr

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// What is bound is what the kernel says, and what a peer is connected to.
func TestNames(t *testing.T) {
	path, _ := Unix([]byte(t.TempDir()+"/socket"), false)
	abstract, _ := Unix([]byte("sockaddr-test"), true)
	for _, want := range []Raw{
		Inet(netip.MustParseAddr("127.0.0.9"), 0, Loopback), Inet(netip.IPv6Loopback(), 0, Loopback), path, abstract,
	} {
		var fds [2]int
		for i := range fds {
			fd, err := unix.Socket(want.Family(), unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if errors.Is(err, unix.EAFNOSUPPORT) {
				ktest.Skip(t, "%v", err) // no IPv6
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Close(fd) })
			fds[i] = fd
		}
		if _, err := Peer(fds[1]); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("%s: a peer before connect: %v", want.String(), err)
		}
		err := Bind(fds[0], &want)
		got, e := Local(fds[0])
		if want.IP().IsValid() {
			want.SetPort(got.Port())
		}
		if err = errors.Join(err, e, Connect(fds[1], &got)); err != nil || got.String() != want.String() {
			t.Errorf("bound to %s, not %s: %v", got.String(), want.String(), err)
		}
		if peer, err := Peer(fds[1]); err != nil || peer != got {
			t.Errorf("connected to %s, not %s: %v", peer.String(), got.String(), err)
		}
	}
}

// FuzzRaw: an address is the kernel's text of what somebody chose.
func FuzzRaw(f *testing.F) {
	a := Inet(netip.MustParseAddr("fe80::1"), 5, 1)
	f.Add(a.Bytes())
	u, _ := Unix([]byte("/run/x"), false)
	f.Add(u.Bytes())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Raw
		a.N = uint32(copy(a.B[:], b))
		_ = a.String()
		if ip := a.IP(); ip.IsValid() && a.Family() != unix.AF_INET && a.Family() != unix.AF_INET6 {
			t.Fatalf("family %d has the address %v", a.Family(), ip)
		}
		if a.Family() != unix.AF_UNIX || a.N > unix.SizeofSockaddrUnix {
			return
		}
		text, abstract := a.Path()
		if again, ok := Unix(text, abstract); ok && (abstract || len(text) > 0) {
			if back, _ := again.Path(); string(back) != string(text) {
				t.Fatalf("%q became %q", text, back)
			}
		}
	})
}
