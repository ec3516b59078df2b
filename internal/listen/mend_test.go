package listen

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
	"activator/internal/spec"
)

// sabotage is what a service does to the socket it shares with us.
type sabotage struct {
	name     string
	applies  func(a spec.Address) bool
	do       func(t *testing.T, fd int, a spec.Address) error
	says     string // Mend's words
	replaced bool   // only a new socket helps
	hears    bool   // it still hears clients, so a broken one does not fire
}

func stream(a spec.Address) bool { return a.IsStream() }

// errForbidden is what this kernel lets no service do, or no unprivileged one.
var errForbidden = errors.New("forbidden by the kernel")

var sabotages = []sabotage{
	{name: "shutdown RDWR of a TCP listener", applies: spec.Address.IsTCP, says: "listening again",
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }},
	{name: "shutdown RD of a TCP listener", applies: spec.Address.IsTCP, says: "listening again",
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Shutdown(fd, unix.SHUT_RD) }},
	{name: "shutdown WR of a listener", applies: stream, hears: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Shutdown(fd, unix.SHUT_WR) }},
	{name: "dissolve a TCP listener", applies: spec.Address.IsTCP, says: "listening again",
		do: func(_ *testing.T, fd int, _ spec.Address) error { return disconnect(fd) }},
	{name: "dissolve a TCP listener and connect it", applies: spec.Address.IsTCP, says: "listening again", hears: true,
		do: func(t *testing.T, fd int, _ spec.Address) error {
			peer := open(t, fmt.Sprintf("tcp://:%d", ktest.Port(t)))
			if err := disconnect(fd); err != nil {
				return err
			}
			err := connectTo(fd, peer)
			if err == unix.EINVAL && ktest.ListenersStay(t) {
				return errForbidden
			}
			return err
		}},
	{name: "listen with a backlog of 0", applies: stream, hears: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Listen(fd, 0) }},
	{name: "shutdown RDWR of a unix listener", applies: func(a spec.Address) bool { return a.IsUnix() && a.IsStream() }, says: "bound anew", replaced: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Shutdown(fd, unix.SHUT_RDWR) }},
	{name: "shutdown RD of a unix datagram socket", applies: func(a spec.Address) bool { return a.Network == spec.UnixGram }, says: "bound anew", replaced: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.Shutdown(fd, unix.SHUT_RD) }},
	{name: "connect a UDP socket", applies: spec.Address.IsUDP, says: "dissolved", hears: true,
		do: func(t *testing.T, fd int, _ spec.Address) error {
			return connectTo(fd, open(t, fmt.Sprintf("udp://:%d", ktest.Port(t))))
		}},
	{name: "connect a UDP socket and shut it down", applies: spec.Address.IsUDP, says: "bound anew", replaced: true,
		do: func(t *testing.T, fd int, _ spec.Address) error {
			if err := connectTo(fd, open(t, fmt.Sprintf("udp://:%d", ktest.Port(t)))); err != nil {
				return err
			}
			return unix.Shutdown(fd, unix.SHUT_RDWR)
		}},
	{name: "connect a unix datagram socket", applies: func(a spec.Address) bool { return a.Network == spec.UnixGram }, says: "dissolved", hears: true,
		do: func(t *testing.T, fd int, _ spec.Address) error {
			peer := open(t, "unixgram://"+t.TempDir()+"/peer")
			return unix.Connect(fd, &unix.SockaddrUnix{Name: peer.Spec().Address.Path})
		}},
	{name: "leave an error", applies: func(a spec.Address) bool { return a.IsUDP() && a.IP.Is4() }, says: "cleared",
		do: func(t *testing.T, fd int, _ spec.Address) error {
			// Nobody listens there: ICMP comes back and waits in the error queue.
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
				return err
			}
			if err := unix.Sendto(fd, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: ktest.Port(t)}); err != nil {
				return err
			}
			return waitEvent(fd, unix.POLLERR)
		}},
	{name: "leave a filter", applies: func(a spec.Address) bool { return a.Network != spec.FIFO && a.Network != spec.VSock }, says: "packet filter on it; removed", hears: true,
		do: func(t *testing.T, fd int, _ spec.Address) error { return dropAll(t, fd) }},
	{name: "lock a filter", applies: func(a spec.Address) bool { return a.Network != spec.FIFO && a.Network != spec.VSock }, says: "bound anew", replaced: true, hears: true,
		do: func(t *testing.T, fd int, _ spec.Address) error {
			if err := dropAll(t, fd); err != nil {
				return err
			}
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
		}},
	{name: "bind to a device", applies: spec.Address.IsInternet, says: "bound anew", replaced: true, hears: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error {
			return unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
		}},
	{name: "set O_NONBLOCK", applies: func(spec.Address) bool { return true }, hears: true,
		do: func(_ *testing.T, fd int, _ spec.Address) error { return unix.SetNonblock(fd, true) }},
}

// connectTo connects fd, of either family, to a dual-stack socket of ours.
func connectTo(fd int, peer *Socket) error {
	port := int(peer.Spec().Address.Port)
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family == unix.AF_INET {
		return unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port})
	}
	return unix.Connect(fd, &unix.SockaddrInet6{Addr: [16]byte{15: 1}, Port: port})
}

// dropAll attaches a filter that lets nothing in. Newer kernels want a privilege
// for that on TCP.
func dropAll(t *testing.T, fd int) error {
	t.Helper()
	ktest.Filters(t)
	program := []unix.SockFilter{{Code: 0x06, K: 0}} // BPF_RET | BPF_K
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{
		Len: 1, Filter: (*unix.SockFilter)(unsafe.Pointer(&program[0])),
	})
	if err == unix.EPERM && os.Geteuid() != 0 {
		return errForbidden
	}
	return err
}

func waitEvent(socket int, events int16) error {
	ready, err := fd.Poll(socket, events, 10*time.Second)
	if err != nil {
		return err
	}
	if ready&events == 0 {
		return errors.New("nothing in 10 s")
	}
	return nil
}

// TestMend breaks every kind of socket in every way and then serves the next
// client.
func TestMend(t *testing.T) {
	for _, how := range sabotages {
		t.Run(how.name, func(t *testing.T) {
			w := start(t)
			for _, address := range addresses(t) {
				s := open(t, address)
				if how.applies(s.Spec().Address) {
					breakAndMend(t, w, s, how)
				}
			}
		})
	}
}

func breakAndMend(t *testing.T, w *Watcher, s *Socket, how sabotage) {
	for round := range 2 {
		var err error
		asService(t, s, func(fd int) {
			err = how.do(t, fd, s.Spec().Address)
		})
		if err == errForbidden {
			return
		}
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		fired := arm(t, w, s)
		if !how.hears {
			// Broken, it fires once and not for ever.
			expect(t, s.String()+": broken", fired)
			fired = nil
		}
		what, err := s.Mend()
		if err != nil || (what == "") != (how.says == "") || !strings.Contains(what, how.says) {
			t.Errorf("%s: Mend: %q, %v", s, what, err)
		}
		if want := round + 1; how.replaced && s.Generation() != want {
			t.Errorf("%s: generation %d, want %d", s, s.Generation(), want)
		}
		if events := events(t, s); events != 0 {
			t.Errorf("%s: mended and idle, poll says %#x", s, events)
		}
		if what, err := s.Mend(); what != "" || err != nil {
			t.Errorf("%s: second Mend: %q, %v", s, what, err)
		}
		// What was armed before still is, also for a new descriptor.
		if fired == nil {
			fired = arm(t, w, s)
		}
		answer := client(t, s)
		expect(t, s.String()+": mended", fired)
		serveOne(t, s)
		answer()
		if len(fired) > 0 {
			t.Errorf("%s: ready called twice", s)
		}
	}
}

func events(t *testing.T, s *Socket) (revents int16) {
	t.Helper()
	if err := s.controlFront("poll", func(fd int) error { revents = pollNow(fd); return nil }); err != nil {
		t.Fatal(err)
	}
	return revents
}

// TestMendQueue holds that mending a healthy socket takes nobody off its queue.
func TestMendQueue(t *testing.T) {
	for _, address := range addresses(t) {
		s := open(t, address)
		answer := client(t, s)
		if what, err := s.Mend(); what != "" || err != nil {
			t.Errorf("%s: Mend: %q, %v", s, what, err)
		}
		serveOne(t, s)
		answer()
	}
}

// TestMendTwice loses the address while the socket is down, and gets it back at
// a later try. Only a name can be lost: a port is taken over before it is given up.
func TestMendTwice(t *testing.T) {
	s := open(t, fmt.Sprintf("unixgram://@activator-twice-%d", os.Getpid()))
	file, err := s.Lend()
	if err != nil {
		t.Fatal(err)
	}
	// An escaped child of the service still has it.
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		t.Fatal(err)
	}
	what, err := s.Mend()
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf("held by ourselves, pid %d", os.Getpid())) {
		t.Errorf("Mend: %q, %v", what, err)
	}
	if _, err := s.Lend(); !errors.Is(err, errClosed) {
		t.Errorf("Lend without a descriptor: %v", err)
	}
	unix.Close(fd)
	if what, err := s.Mend(); !strings.Contains(what, "bound anew") || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	answer := client(t, s)
	serveOne(t, s)
	answer()
}
