package listen

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// thief is a user that wants a port of ours, with the options it sets before it binds.
type thief struct {
	name    string
	other   bool // another user than ours; only root can be one
	options []int
}

func thieves() (all []thief) {
	for _, other := range []bool{false, true} {
		if other && os.Geteuid() != 0 {
			continue
		}
		who := map[bool]string{false: "we", true: "another user"}[other]
		all = append(all,
			thief{who, other, nil},
			thief{who + ", SO_REUSEADDR", other, []int{unix.SO_REUSEADDR}},
			thief{who + ", SO_REUSEPORT", other, []int{unix.SO_REUSEPORT}},
			thief{who + ", both", other, []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT}})
	}
	return all
}

// steal binds the address of s as the thief, and listens where that is possible. Its error says
// why it could not.
func (th thief) steal(t *testing.T, s *Socket) error {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if th.other { // the kernel asks for the id that a socket was made with: that for files
		if err := unix.Setfsuid(61500); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Setfsuid(0) }()
	}
	a := s.Spec().Address
	kind := kindOf(&spec.Socket{Address: a}, haveIPv6)
	fd, err := unix.Socket(kind.Family, kind.Type|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, option := range th.options {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
			t.Fatal(err)
		}
	}
	at, err := makeSockaddr(fd, kind.Family, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, at); err != nil || !a.IsStream() {
		return err
	}
	return unix.Listen(fd, 1)
}

// Nobody gets a TCP port of ours at any moment of its life, whatever the service does to the listener.
func TestPortIsKept(t *testing.T) {
	ktest.Filters(t)
	addresses := []string{"tcp4://127.0.0.1:%d", "tcp://:%d"}
	if hasIPv6() {
		addresses = append(addresses, "tcp://[::1]:%d")
	}
	for _, address := range addresses {
		s := open(t, fmt.Sprintf(address, ktest.Port(t)))
		kept := func(when string) {
			t.Helper()
			for _, th := range thieves() {
				if err := th.steal(t, s); err != unix.EADDRINUSE {
					t.Errorf("%s: %s: %s: %v", address, when, th.name, err)
				}
			}
			if _, err := openOne(s.Spec(), Means{}); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("%s: %s: a second activator: %v", address, when, err)
			}
		}
		kept("it listens")
		asService(t, s, func(fd int) {
			for _, option := range []int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
				if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 1); err != nil {
					t.Fatal(err)
				}
			}
			kept("the service has set both options")
			if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
				t.Fatal(err)
			}
			kept("the service has shut it down")
		})
		if what, err := s.Mend(); !strings.Contains(what, "listening again") || err != nil {
			t.Errorf("%s: Mend: %q, %v", address, what, err)
		}
		if _, err := openOne(s.Spec(), Means{}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("%s: mended: a second activator: %v", address, err)
		}
		answer := client(t, s)
		serveOne(t, s)
		answer()
	}
}

// While a listener is mended, or another is bound in its place, nobody wins the port; nor that of
// a UDP socket, which has no placeholder.
func TestPortIsKeptWhileMended(t *testing.T) {
	ktest.Filters(t)
	for _, test := range []struct {
		address, mended string
		spoil           func(fd int) error
	}{
		{"tcp4://127.0.0.1:%d", "listening again", func(fd int) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }},
		{"tcp4://127.0.0.1:%d", "bound anew", lockFilter},
		{"udp4://127.0.0.1:%d", "bound anew", lockFilter},
	} {
		for _, th := range thieves() {
			if !th.other && th.options != nil {
				continue // our own user's sockets may have an option of which it knows
			}
			s := open(t, fmt.Sprintf(test.address, ktest.Port(t)))
			stop, done := make(chan struct{}), make(chan int)
			go func() {
				won := 0
				for {
					select {
					case <-stop:
						done <- won
						return
					default:
						if th.steal(t, s) == nil {
							won++
						}
					}
				}
			}()
			for range 200 {
				asService(t, s, func(fd int) {
					if err := test.spoil(fd); err != nil {
						t.Fatal(err)
					}
				})
				if what, err := s.Mend(); !strings.Contains(what, test.mended) || err != nil {
					t.Errorf("%s: Mend: %q, %v", test.address, what, err)
				}
			}
			close(stop)
			if won := <-done; won > 0 {
				t.Errorf("%s, %s: %s got the port %d times", test.address, test.mended, th.name, won)
			}
			answer := client(t, s)
			serveOne(t, s)
			answer()
		}
	}
}

func lockFilter(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1) }

// startConnect begins to connect to a.
func startConnect(t *testing.T, a spec.Address) error {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	to, err := makeSockaddr(fd, unix.AF_INET, a)
	if err != nil {
		t.Fatal(err)
	}
	return unix.Connect(fd, to)
}

// mayFilter reports whether we may attach filters to sockets.
func mayFilter(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = dropAll(t, fd)
	if err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	return err == nil
}

// A copy of a socket that a service has passed on hears nobody after the socket was closed, and the
// next activator gets the address. Where an ordinary user may attach no filter, a listener of TCP
// can listen again.
func TestCopyIsSilenced(t *testing.T) {
	filters := mayFilter(t)
	for _, address := range []string{
		fmt.Sprintf("tcp4://127.0.0.1:%d", ktest.Port(t)), fmt.Sprintf("udp4://127.0.0.1:%d", ktest.Port(t)),
		"unix://" + t.TempDir() + "/s", "unixgram://" + t.TempDir() + "/s",
	} {
		s := open(t, address)
		file, err := s.Lend()
		if err != nil {
			t.Fatal(err)
		}
		exported, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(exported)
		a := s.Spec().Address
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(exported, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); filters && a.IsInternet() && err != unix.EPERM {
			t.Errorf("%s: the filter taken off: %v", address, err)
		}
		switch {
		case a.IsTCP(): // over loopback the first packet has come, and was dropped, when connect returns
			if err := unix.Listen(exported, 8); err != nil {
				t.Error(err)
			}
			if err := startConnect(t, a); filters && (err != unix.EINPROGRESS || pollNow(exported) != 0) {
				t.Errorf("%s: connect: %v, events at the copy %#x", address, err, pollNow(exported))
			}
			_ = unix.Shutdown(exported, unix.SHUT_RDWR)
		case a.IsUDP(): // the copy has the port: the next activator says whose it is
			if c, err := dial(t, a); err == nil {
				_, _ = c.Write([]byte("hello"))
				c.Close()
			}
			if n, err := unix.Read(exported, make([]byte, 8)); n > 0 {
				t.Errorf("%s: read %d bytes, %v", address, n, err)
			}
			continue
		}
		again := open(t, address)
		answer := client(t, again)
		serveOne(t, again)
		answer()
	}
}
