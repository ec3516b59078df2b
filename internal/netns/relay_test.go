package netns

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// owner returns an owner until the test ends, which skips where there are no namespaces.
func owner(t testing.TB) *Owner {
	t.Helper()
	o := new(Owner)
	t.Cleanup(func() { _ = o.Close() })
	socket, flows, err := o.NewNetwork(unix.AF_UNIX, nil)
	if err != nil {
		ktest.Skip(t, "no user namespaces: %v", err)
	}
	closeAll(append(flows, socket))
	return o
}

// relay returns the sockets of a relay network namespace until the test ends.
func relay(t testing.TB, o *Owner, family int, flows ...int) (socket int, made []int) {
	t.Helper()
	socket, made, err := o.NewNetwork(family, flows)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeAll(append(made, socket)) })
	return socket, made
}

// Where a relay is every address is local: a flow socket may have any, and is heard, and
// answered.
func TestRelayNetwork(t *testing.T) {
	o := owner(t)
	for _, tt := range []struct {
		family, flow int
		host, client string
	}{
		{unix.AF_INET, unix.AF_INET, "192.0.2.1:80", "203.0.113.9:5555"},
		{unix.AF_INET6, unix.AF_INET6, "[2001:db8::1]:80", "[2001:db8:9::9]:5555"},
		{unix.AF_INET6, unix.AF_INET, "[::]:80", "203.0.113.9:5555"},
	} {
		t.Run(tt.client+" to "+tt.host, func(t *testing.T) {
			if tt.family == unix.AF_INET6 && !haveIPv6() {
				ktest.Skip(t, "no IPv6")
			}
			socket, flows := relay(t, o, tt.family, tt.flow)
			more, err := MakeFlows(socket, tt.flow, 3)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { closeAll(more) })
			free := unix.SOL_IP
			option := unix.IP_FREEBIND
			if tt.family == unix.AF_INET6 {
				free, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
			}
			must(t, unix.SetsockoptInt(socket, free, option, 1))
			host := netip.MustParseAddrPort(tt.host)
			must(t, unix.Bind(socket, sockaddrOf(host)))
			if host.Addr().IsUnspecified() {
				host = netip.MustParseAddrPort("198.51.100.7:80")
			}
			client := netip.MustParseAddrPort(tt.client)
			for i, fd := range append(flows, more...) {
				client = netip.AddrPortFrom(client.Addr(), client.Port()+uint16(i))
				must(t, unix.Bind(fd, sockaddrOf(client)))
				must(t, unix.Sendto(fd, []byte("question"), 0, sockaddrOf(host)))
				got := make([]byte, 16)
				n, from, err := unix.Recvfrom(socket, got, 0)
				if err != nil || string(got[:n]) != "question" {
					t.Fatalf("%q, %v", got[:n], err)
				}
				must(t, unix.Sendto(socket, []byte("answer"), 0, from))
				if n, _, err = unix.Recvfrom(fd, got, 0); err != nil || string(got[:n]) != "answer" {
					t.Errorf("flow %d: %q, %v", i, got[:n], err)
				}
				if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
					t.Errorf("flow %d blocks: %v", i, err)
				}
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func haveIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	_ = unix.Close(fd)
	return err == nil
}

// Each is a network of its own, with a user namespace that is not ours; what was made lives
// on, and gets more, when the owner is closed.
func TestRelayNetworksLiveOn(t *testing.T) {
	before, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	must(t, err)
	o := owner(t)
	first, flows := relay(t, o, unix.AF_INET, unix.AF_INET)
	second, _ := relay(t, o, unix.AF_INET)
	ours, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer unix.Close(ours)
	if netns(t, first) == netns(t, second) || netns(t, first) == netns(t, ours) || netns(t, first) != netns(t, flows[0]) {
		t.Error("they are not where they should be")
	}
	must(t, o.Close())
	if _, _, err := o.NewNetwork(unix.AF_INET, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("of a closed owner: %v", err)
	}
	more, err := MakeFlows(first, unix.AF_INET, 2)
	must(t, err)
	defer closeAll(more)
	if netns(t, more[1]) != netns(t, first) {
		t.Error("a flow socket is elsewhere")
	}
	// The children have our memory, and change their rights: prctl(2).
	if after, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || after != before {
		t.Errorf("we were dumpable %d, and are %d: %v", before, after, err)
	}
}

// A path is what a program sees as its socket's name, whatever stands there on the host;
// the same one can be had again at once, and by many.
func TestBindNode(t *testing.T) {
	o := owner(t)
	path := t.TempDir() + "/s"
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				bindOne(t, o, path)
			}
		})
	}
	all.Wait()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("on the host: %v", err)
	}
}

func bindOne(t *testing.T, o *Owner, path string) {
	socket, flows, err := o.NewNetwork(unix.AF_UNIX, []int{unix.AF_UNIX})
	if err != nil {
		t.Error(err)
		return
	}
	defer closeAll(append(flows, socket))
	name := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), path...)
	node, err := o.BindNode(socket, path, name)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(node)
	if at, err := unix.Getsockname(socket); err != nil || at.(*unix.SockaddrUnix).Name != path {
		t.Errorf("it is called %v, %v", at, err)
	}
	text := []byte(fmt.Sprint("to ", socket))
	if err := unix.Sendto(flows[0], text, 0, &unix.SockaddrUnix{Name: fmt.Sprint("/proc/self/fd/", node)}); err != nil {
		t.Error(err)
	}
	got := make([]byte, 64)
	if n, _, err := unix.Recvfrom(socket, got, unix.MSG_DONTWAIT); err != nil || !bytes.Equal(got[:n], text) {
		t.Errorf("%q, not %q: %v", got[:n], text, err)
	}
}

// What the kernel says is told with what helps.
func TestRelayErrors(t *testing.T) {
	for errno, want := range map[unix.Errno]string{unix.EPERM: "activator doctor", unix.EACCES: "activator doctor", unix.ENOSPC: "max_user_namespaces", unix.EMFILE: "too many open files"} {
		if err := adviseOn(os.NewSyscallError("clone", errno)); !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v", err)
		}
	}
	o := owner(t)
	socket, _ := relay(t, o, unix.AF_UNIX)
	long := "/" + strings.Repeat("x", 200)
	name := append(binary.NativeEndian.AppendUint16(nil, unix.AF_UNIX), long...)
	if _, err := o.BindNode(socket, long, name); !errors.Is(err, unix.EINVAL) || !strings.HasPrefix(err.Error(), "bind") {
		t.Errorf("a path that is too long: %v", err)
	}
	if _, err := MakeFlows(socket, 99, 1); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("a family that there is not: %v", err)
	}
}

// Nobody is left, and no descriptor but what was asked for.
func TestRelayLeavesNothing(t *testing.T) {
	o := owner(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := count()
	for range 20 {
		socket, flows, err := o.NewNetwork(unix.AF_INET, []int{unix.AF_INET, unix.AF_INET})
		must(t, err)
		more, err := MakeFlows(socket, unix.AF_INET, 4)
		must(t, err)
		closeAll(append(append(flows, more...), socket))
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d, %v", pid, err)
	}
}

// BenchmarkOwner is a relay network namespace with eight flow sockets, and eight more.
func BenchmarkOwner(b *testing.B) {
	o := owner(b)
	flows := make([]int, 8)
	for i := range flows {
		flows[i] = unix.AF_INET
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			socket, made, err := o.NewNetwork(unix.AF_INET, flows)
			must(b, err)
			closeAll(append(made, socket))
		}
	})
	socket, _ := relay(b, o, unix.AF_INET)
	b.Run("flows", func(b *testing.B) {
		for b.Loop() {
			made, err := MakeFlows(socket, unix.AF_INET, 8)
			must(b, err)
			closeAll(made)
		}
	})
}
