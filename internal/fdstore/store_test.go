package fdstore

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// memory returns memory with a text in it, which the store takes.
func memory(t *testing.T, text string) int {
	t.Helper()
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err == nil {
		_, err = unix.Write(fd, []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// connection returns both ends of a connection of TCP, and its listener.
func connection(t *testing.T, protocol int) (accepted, client, listener int) {
	t.Helper()
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		t.Skipf("protocol %d: %v", protocol, err)
	}
	loopback := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	err = errors.Join(unix.Bind(listener, loopback), unix.Listen(listener, 1))
	name, named := unix.Getsockname(listener)
	client, made := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err = errors.Join(err, named, made); err == nil {
		err = unix.Connect(client, name)
	}
	if err == nil {
		accepted, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(client), unix.Close(listener) })
	return accepted, client, listener
}

func inode(t *testing.T, fd int) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

func dup(t *testing.T, fd int) int {
	t.Helper()
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	return other
}

// names are those of what is stored, each of which is looked at.
func names(t *testing.T, s *Store) []string {
	t.Helper()
	fds, names, err := s.Copy()
	if err != nil {
		t.Fatal(err)
	}
	CloseAll(fds)
	return names
}

func TestStore(t *testing.T) {
	accepted, client, _ := connection(t, unix.IPPROTO_TCP)
	ours := inode(t, accepted)
	s := New(3, func(inode uint64) bool { return inode == ours })
	defer s.Close()
	first := memory(t, "first")
	again := dup(t, first)
	for _, add := range []struct {
		fd   int
		name string
	}{{first, "a"}, {again, "b"}, {memory(t, "second"), "a"}, {accepted, "client"}} {
		if err := s.Add(add.fd, add.name, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Add(memory(t, "third"), "c", true); err == nil {
		t.Error("one too many is stored")
	}
	if got, want := names(t, s), []string{"a", "a", "client"}; !slices.Equal(got, want) {
		t.Fatalf("stored are %q, want %q", got, want)
	}
	if got := s.Clients(); !slices.Equal(got, []uint64{ours}) {
		t.Errorf("the clients are %d", got)
	}
	if n := s.Remove("a"); n != 2 {
		t.Errorf("%d are removed", n)
	}
	// The client cuts the connection off: nothing can come or go.
	if err := ktest.Dissolve(client); err != nil { // which resets it
		t.Fatal(err)
	}
	if got := names(t, s); len(got) > 0 {
		t.Errorf("stored are %q, and the client is gone", got)
	}
}

// What could lead anywhere is not kept, and closed.
func TestStoreRefuses(t *testing.T) {
	accepted, _, listener := connection(t, unix.IPPROTO_TCP)
	s := New(100, func(uint64) bool { return false })
	defer s.Close()
	file, err := os.Create(filepath.Join(t.TempDir(), "memfd:x"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	must := func(fd int, err error) int {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	pipe, pair := make([]int, 2), [2]int{}
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		t.Fatal(err)
	}
	for name, fd := range map[string]int{
		"a file":               dup(t, int(file.Fd())),
		"a folder":             must(unix.Open("/", unix.O_PATH|unix.O_CLOEXEC, 0)),
		"a device":             must(unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)),
		"a namespace":          must(unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)),
		"an epoll":             must(unix.EpollCreate1(unix.EPOLL_CLOEXEC)),
		"an eventfd":           must(unix.Eventfd(0, unix.EFD_CLOEXEC)),
		"a pidfd":              must(unix.PidfdOpen(os.Getpid(), 0)),
		"a pipe":               pipe[0],
		"the other end":        pipe[1],
		"a unix socket":        pair[0],
		"its peer":             pair[1],
		"a listener":           dup(t, listener),
		"another's connection": accepted,
		"a UDP socket":         must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)),
		"a netlink socket":     must(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)),
	} {
		if err := s.Add(fd, name, true); err == nil {
			t.Errorf("%s is stored", name)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Errorf("%s stays open", name)
		}
	}
	if got := names(t, s); len(got) > 0 {
		t.Errorf("stored are %q", got)
	}
}

// Landlock does not know multipath TCP: what was a connection could become a listener of the host's.
func TestStoreRefusesMultipath(t *testing.T) {
	accepted, _, _ := connection(t, unix.IPPROTO_MPTCP)
	if protocol, _ := unix.GetsockoptInt(accepted, unix.SOL_SOCKET, unix.SO_PROTOCOL); protocol != unix.IPPROTO_MPTCP {
		// The client did not speak it: accept(2) gives plain TCP.
		_ = unix.Close(accepted)
		return
	}
	s := New(1, func(uint64) bool { return true })
	defer s.Close()
	if err := s.Add(accepted, "", true); err == nil {
		t.Error("a connection of multipath TCP is stored")
	}
}

func TestNoStore(t *testing.T) {
	s := New(0, nil)
	if err := s.Add(memory(t, ""), "", true); err == nil {
		t.Error("stored in nothing")
	}
	if fds, names, err := s.Copy(); fds != nil || names != nil || err != nil || s.Remove("") != 0 || s.Close() != 0 || s.Clients() != nil {
		t.Error("there is something in nothing")
	}
}
