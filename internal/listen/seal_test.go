package listen

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// relayed is a relay socket on loopback: what comes to the host's socket is sent on
// to inner by outer, and the answer goes to whoever came last.
type relayed struct {
	refilled     bool
	t            *testing.T
	host         *os.File
	inner        *os.File      // the service's
	outer, pipes [2]int        // outer[0] is connected to inner; a byte in pipes[1] ends it
	done         chan struct{} // nil: it has not run
	carried      atomic.Uint64
	asked        atomic.Int64
}

// relays counts what its RelaySocket makes.
type relays struct {
	t    *testing.T
	made int
	last *relayed
}

func (r *relays) means() Means { return withRelaySocket(r.relaySocket) }

// relaySockets is a [Restriction] that makes relay sockets.
type relaySockets struct {
	Plain
	make func(host *os.File, want spec.Socket, u *udprelay.Undelivered) (RelaySocket, error)
}

func (s *relaySockets) OpenRelaySocket(host *os.File, want spec.Socket, u *udprelay.Undelivered) (RelaySocket, error) {
	return s.make(host, want, u)
}

func withRelaySocket(make func(*os.File, spec.Socket, *udprelay.Undelivered) (RelaySocket, error)) Means {
	return Means{Restrictions: map[spec.Seal]Restriction{spec.Relayed: &relaySockets{make: make}}}
}

func (r *relays) relaySocket(host *os.File, spec spec.Socket, _ *udprelay.Undelivered) (RelaySocket, error) {
	r.made++
	inner, outer := udpPair(r.t)
	x := &relayed{t: r.t, host: host, inner: os.NewFile(uintptr(inner), spec.Address.String()), outer: [2]int{outer}}
	if err := unix.Pipe2(x.pipes[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	r.last = x
	return x, nil
}

// udpPair returns a socket bound to loopback and one connected to it.
func udpPair(t *testing.T) (inner, outer int) {
	t.Helper()
	var fds [2]int
	for i := range fds {
		var err error
		if fds[i], err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
	}
	// A port of our choice, which dissolving a connection keeps.
	if err := unix.Bind(fds[0], &unix.SockaddrInet4{Port: ktest.Port(t), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	to, err := unix.Getsockname(fds[0])
	if err == nil {
		err = unix.Connect(fds[1], to)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fds[0], fds[1]
}

func (x *relayed) Run() {
	x.done = make(chan struct{})
	go x.run()
}

func (x *relayed) run() {
	defer close(x.done)
	_ = control(x.host, func(host int) error {
		var client unix.Sockaddr
		var buf [512]byte
		for {
			fds := []unix.PollFd{{Fd: int32(host), Events: unix.POLLIN}, {Fd: int32(x.outer[0]), Events: unix.POLLIN}, {Fd: int32(x.pipes[0]), Events: unix.POLLIN}}
			if err := fd.PollAny(fds, -1); err != nil || fds[2].Revents != 0 {
				return err
			}
			if n, from, err := unix.Recvfrom(host, buf[:], unix.MSG_DONTWAIT); err == nil {
				client = from
				x.carried.Add(1)
				_, _ = unix.Write(x.outer[0], buf[:n]) // ECONNREFUSED when the service shut it down
			}
			if n, _, err := unix.Recvfrom(x.outer[0], buf[:], unix.MSG_DONTWAIT); err == nil && client != nil {
				x.carried.Add(1)
				_ = unix.Sendto(host, buf[:n], 0, client)
			}
		}
	})
}

func (x *relayed) File() *os.File { return x.inner }

func (x *relayed) Carried() uint64 { return x.carried.Load() }
func (x *relayed) AskQueue()       { x.asked.Add(1) }
func (x *relayed) Refilled() bool  { return x.refilled }

func (x *relayed) Close() error {
	if err := control(x.host, func(int) error { return nil }); err != nil {
		x.t.Errorf("the host's socket went before its relay socket: %v", err)
	}
	_, _ = unix.Write(x.pipes[1], []byte{0})
	if x.done != nil {
		<-x.done
	}
	for _, fd := range []int{x.outer[0], x.pipes[0], x.pipes[1]} {
		unix.Close(fd)
	}
	return x.inner.Close()
}

// openWith opens address with a seal, to be closed at the end of the test.
func openWith(t *testing.T, address string, seal spec.Seal, means Means) *Socket {
	t.Helper()
	sp := socketSpec(t, address)
	sp.Seal = seal
	s, err := openOne(sp, means)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// cookie tells sockets apart for ever.
func cookie(t *testing.T, f *os.File) (n uint64) {
	t.Helper()
	err := control(f, func(fd int) (err error) {
		n, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A relayed socket wakes by the host's queue, serves through its relay socket, and
// is watched, mended and refused there from then on.
func TestRelayed(t *testing.T) {
	w := start(t)
	for _, address := range []string{fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), fmt.Sprint("udp://:", ktest.Port(t))} {
		t.Run(address, func(t *testing.T) {
			r := &relays{t: t}
			s := openWith(t, address, spec.Relayed, r.means())
			host := cookie(t, s.file)
			fired := arm(t, w, s)
			client(t, s)
			expect(t, "the host's queue", fired)
			if n, err := s.RefuseClients(maxRefused); n != 1 || err != nil || r.made != 0 {
				t.Errorf("Refuse: %d, %v; %d relay sockets", n, err, r.made)
			}
			live(t, w, s) // closes it
			if r.made != 1 {
				t.Errorf("%d relay sockets", r.made)
			}

			s = openWith(t, address, spec.Relayed, r.means())
			if cookie(t, s.file) == host {
				t.Fatal("the same socket after Close")
			}
			// Armed at the host's, it fires for what the relay socket gets.
			fired = arm(t, w, s)
			lent, err := s.Lend()
			if err != nil || lent == s.file {
				t.Fatalf("Lend: %v", err)
			}
			answer := client(t, s)
			expect(t, "the relay socket's queue", fired)
			if waiting, err := s.WaitingClients(); len(waiting) != 1 || err != nil {
				t.Errorf("Waiting: %q, %v", waiting, err)
			}
			serveOne(t, s)
			answer()
			fired = arm(t, w, s)
			client(t, s)
			expect(t, "the relay socket's queue", fired)
			if n, err := s.RefuseClients(maxRefused); n != 1 || err != nil {
				t.Errorf("Refuse: %d, %v", n, err)
			}
		})
	}
}

// TestMendRelaySocket lets a service ruin a relay socket in every way: the host's socket
// stays the same.
func TestMendRelaySocket(t *testing.T) {
	for _, how := range sabotages {
		t.Run(how.name, func(t *testing.T) {
			r := &relays{t: t}
			s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
			if !how.applies(s.Spec().Address) {
				return
			}
			host := cookie(t, s.file)
			how.says = strings.ReplaceAll(how.says, "bound anew", "relay socket is made anew")
			breakAndMend(t, start(t), s, how)
			if cookie(t, s.file) != host {
				t.Error("another socket of the host")
			}
			if want := 1 + s.Generation(); r.made != want {
				t.Errorf("%d relay sockets, want %d", r.made, want)
			}
		})
	}
}

// Who comes after the last service and before the next Lend waits in the host's
// queue for the new relay socket.
func TestRelaySocketKeepsQueue(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
	ruin(t, s)
	if what, err := s.Mend(); !strings.Contains(what, "made anew") || err != nil {
		t.Fatalf("Mend: %q, %v", what, err)
	}
	answer := client(t, s)
	if waiting, err := s.WaitingClients(); len(waiting) != 1 || err != nil {
		t.Errorf("Waiting: %q, %v", waiting, err)
	}
	serveOne(t, s)
	answer()
}

// A node that is bound anew takes the relay socket along: it relays for the old one.
func TestRelaySocketOfLostNode(t *testing.T) {
	path := t.TempDir() + "/g"
	r := &relays{t: t}
	s := openWith(t, "unixgram://"+path, spec.Relayed, r.means())
	if _, err := s.Lend(); err != nil || s.Generation() != 0 {
		t.Fatalf("Lend: generation %d, %v", s.Generation(), err)
	}
	os.Remove(path)
	if what, err := s.MendNode(); !strings.Contains(what, "linked back") || err != nil || s.Generation() != 0 {
		t.Errorf("MendNode: %q, %v, generation %d", what, err, s.Generation())
	}
	os.Remove(path)
	os.Remove(spec.ReservePath(path))
	if what, err := s.MendNode(); !strings.Contains(what, "bound anew") || err != nil || s.Generation() != 1 {
		t.Errorf("MendNode: %q, %v, generation %d", what, err, s.Generation())
	}
	answer := client(t, s)
	serveOne(t, s)
	answer()
	if r.made != 2 {
		t.Errorf("%d relay sockets", r.made)
	}
}

// A relay socket that cannot be made fails the Lend, and the next one tries again.
func TestNoRelaySocket(t *testing.T) {
	r := &relays{t: t}
	broken := errors.New("no room for a relay")
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, withRelaySocket(func(host *os.File, spec spec.Socket, u *udprelay.Undelivered) (RelaySocket, error) {
		if broken != nil {
			return nil, broken
		}
		return r.relaySocket(host, spec, u)
	}))
	answer := client(t, s)
	if _, err := s.Lend(); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "listen udp://") {
		t.Errorf("Lend: %v", err)
	}
	broken = nil
	serveOne(t, s)
	answer()
}

// ruin leaves s beyond repair.
func ruin(t *testing.T, s *Socket) {
	t.Helper()
	asService(t, s, func(fd int) {
		var err error
		if s.Spec().Address.IsInternet() {
			err = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "lo")
		} else {
			err = unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestMakeAll asks for all sockets at once, again for one that is bound anew,
// and admits each before it is lent.
func TestMakeAll(t *testing.T) {
	dir := t.TempDir()
	specs := []spec.Socket{socketSpec(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t))), socketSpec(t, fmt.Sprint("udp://:", ktest.Port(t))),
		socketSpec(t, "fifo://"+dir+"/f"), socketSpec(t, fmt.Sprint("tcp4://:", ktest.Port(t))), socketSpec(t, "unixgram://"+dir+"/g")}
	for i := range specs {
		if specs[i].Address.Network != spec.FIFO {
			specs[i].Seal = spec.ReplyOnly
		}
	}
	m := &makers{}
	sockets, err := OpenAll(t.Context(), specs, m.means(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		defer s.Close()
	}
	if len(m.asked) != 1 || len(m.asked[0]) != 4 {
		t.Errorf("asked for %v", m.asked)
	}
	for _, s := range sockets {
		before := len(m.asked)
		if s.Spec().Seal == spec.Unsealed {
			continue
		}
		if !slices.Contains(m.cookies, cookie(t, s.file)) {
			t.Errorf("%s: not the socket that was made for it", s)
		}
		admits := m.admits
		answer := client(t, s)
		serveOne(t, s)
		answer()
		if m.admits != admits+1 {
			t.Errorf("%s: admitted %d times", s, m.admits-admits)
		}
		ruin(t, s)
		if what, err := s.Mend(); !strings.Contains(what, "bound anew") || err != nil {
			t.Errorf("%s: Mend: %q, %v", s, what, err)
		}
		if len(m.asked) != before+1 || !slices.Contains(m.cookies, cookie(t, s.file)) {
			t.Errorf("%s: bound anew to a socket of another maker", s)
		}
	}
	m.fail = errors.New("refused")
	for _, s := range sockets {
		if _, err := s.Lend(); errors.Is(err, m.fail) != (s.Spec().Seal == spec.ReplyOnly) {
			t.Errorf("%s: Lend of what is not admitted: %v", s, err)
		}
	}
	if s, err := openOne(specs[0], m.means(t)); !errors.Is(err, m.fail) || s != nil || !strings.HasPrefix(err.Error(), "listen udp://") {
		t.Errorf("Open: %v", err)
	}
}

// An error closes what was made ahead; an address in use asks again for it. Run
// under ktest, which counts descriptors.
func TestMakeAllNothing(t *testing.T) {
	defer func(before time.Duration) { reopenTimeout = before }(reopenTimeout)
	reopenTimeout = 10 * time.Millisecond // for a second try
	m := &makers{}
	taken := open(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)))
	specs := []spec.Socket{socketSpec(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t))), taken.Spec(), socketSpec(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)))}
	for i := range specs {
		specs[i].Seal = spec.ReplyOnly
	}
	if _, err := OpenAll(t.Context(), specs, m.means(t)); !errors.Is(err, unix.EADDRINUSE) {
		t.Fatal(err)
	}
	if len(m.asked) < 2 || len(m.asked[0]) != 3 || len(m.asked[1]) != 1 {
		t.Errorf("asked for %v", m.asked)
	}
	less := Means{Restrictions: map[spec.Seal]Restriction{spec.ReplyOnly: few{making{m, t}}}}
	if _, err := OpenAll(t.Context(), specs, less); err == nil || !strings.Contains(err.Error(), "asked for 3 sockets, got 2") {
		t.Errorf("too few: %v", err)
	}
}

// Nothing is sealed less than the spec says.
func TestSealNeedsMeans(t *testing.T) {
	m, r := &makers{}, &relays{t: t}
	both := m.means(t)
	both.Restrictions[spec.Relayed] = r.means().Restrictions[spec.Relayed]
	for _, tt := range []struct {
		address string
		seal    spec.Seal
		means   Means
		says    string
	}{
		{"udp://127.0.0.1:9", spec.ReplyOnly, Means{}, "seal: reply only: there are no means for it here"},
		{"udp://127.0.0.1:9", spec.Relayed, Means{}, "seal: relayed: there are no means for it here"},
		{"tcp://127.0.0.1:9", spec.Relayed, both, "only datagram sockets"},
		{"unixpacket:///run/s", spec.Relayed, both, "only datagram sockets"},
		{"fifo:///run/f", spec.ReplyOnly, both, "a FIFO is no socket"},
		{"udp://127.0.0.1:9", spec.ReceiveOnly, both, "only unix datagram sockets"},
		{"unix:///run/s", spec.ReceiveOnly, both, "only unix datagram sockets"},
		{"udp://127.0.0.1:9", spec.AcceptOnly, both, "only TCP sockets"},
		{"udp://127.0.0.1:9", spec.AcceptOnly + 1, both, "seal 5"},
	} {
		sp := socketSpec(t, tt.address)
		sp.Seal = tt.seal
		if _, err := openOne(sp, tt.means); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s, %v: %v", tt.address, tt.seal, err)
		}
	}
}

func TestKeepSeal(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, r.means())
	other := s.Spec()
	other.Seal = spec.Unsealed
	if s.AdoptSpec(other) || !s.AdoptSpec(s.Spec()) {
		t.Error("another seal needs a new socket, the same none")
	}
	other = s.Spec()
	if other.Mapped = true; s.AdoptSpec(other) {
		t.Error("another family needs a new socket")
	}
}

func TestKindOf(t *testing.T) {
	for _, tt := range []struct {
		spec spec.Socket
		ipv6 bool
		want spec.Kind
	}{
		{socketSpec(t, "tcp://:80"), true, spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP}},
		{socketSpec(t, "tcp://:80"), false, spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP}},
		{socketSpec(t, "udp://:80"), false, spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}},
		{socketSpec(t, "udp6://:80"), false, spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}},
		{socketSpec(t, "udp://[::1]:80"), false, spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}},
		{spec.Socket{Address: socketSpec(t, "udp://127.0.0.1:80").Address, Mapped: true}, true, spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}},
		{socketSpec(t, "tcp://:80", func(o *spec.Options) { o.BindIPv6Only = "ipv6-only" }), false, spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP}},
		{socketSpec(t, "tcp4://:80", func(o *spec.Options) { o.MPTCP = true }), true, spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_MPTCP}},
		{socketSpec(t, "unixpacket://@x"), true, spec.Kind{Family: unix.AF_UNIX, Type: unix.SOCK_SEQPACKET, Protocol: 0}},
		{socketSpec(t, "vsock://:80"), true, spec.Kind{Family: unix.AF_VSOCK, Type: unix.SOCK_STREAM, Protocol: 0}},
	} {
		if got := kindOf(&tt.spec, func() bool { return tt.ipv6 }); got != tt.want {
			t.Errorf("%v, IPv6 %v: %v, want %v", tt.spec.Address, tt.ipv6, got, tt.want)
		}
	}
}

// What was made by others is given back before it is closed, when it is bound
// anew and in the end.
func TestRelease(t *testing.T) {
	m := &makers{}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.ReplyOnly, m.means(t))
	ruin(t, s)
	if _, err := s.Mend(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(m.released, m.cookies[:1]) {
		t.Errorf("released %v of %v", m.released, m.cookies)
	}
	s.Close()
	if !slices.Equal(m.released, m.cookies) {
		t.Errorf("released %v of %v", m.released, m.cookies)
	}
}
