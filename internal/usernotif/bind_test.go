package usernotif

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// hostSocket makes a bound socket of the host's and returns it with what it is bound
// to, in the words of package net.
func hostSocket(t *testing.T, at string) (f *os.File, address string) {
	t.Helper()
	fd, sa := open(at)
	unix.CloseOnExec(fd)
	f = os.NewFile(uintptr(fd), at)
	t.Cleanup(func() { f.Close() })
	if err := unix.Bind(fd, sa); err != nil {
		t.Fatal(err)
	}
	if kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); kind != unix.SOCK_DGRAM {
		if err := unix.Listen(fd, 16); err != nil {
			t.Fatal(err)
		}
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return f, textOf(bound)
}

// superviseTargets runs a service that binds addresses, each a "NETWORK ADDRESS",
// and gets sockets of the host for them, which are made of the values.
func superviseTargets(t *testing.T, targets ...Target) *supervised {
	t.Helper()
	return supervise(t, t.Context(), Policy{Targets: targets})
}

func (s *supervised) wants(name, want string) {
	s.t.Helper()
	if got := s.attempt(name); got != want {
		s.t.Errorf("%s: %s, want %s", name, got, want)
	}
}

func (s *supervised) serving() bool {
	select {
	case <-s.Serving():
		return true
	default:
		return false
	}
}

// askStream connects to the host's socket and wants to be told its own address.
func (s *supervised) askStream(address, when string) {
	s.t.Helper()
	network := "tcp"
	if !strings.Contains(address, ":") {
		network = "unix"
	}
	c, err := net.Dial(network, address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	own := ""
	if network == "tcp" {
		own = c.LocalAddr().String()
	}
	s.wants(when, own)
	got, err := io.ReadAll(c)
	if string(got) != own || err != nil {
		s.t.Errorf("%s: the service sees %q, want %q: %v", address, got, own, err)
	}
}

// parsed is an address as the configuration has it.
func parsed(text string) spec.Address {
	a, err := spec.ParseAddress(text)
	if err != nil {
		panic(err)
	}
	return a
}

var wildcard4 = Target{Address: parsed("tcp4://:80")}

// A program binds port 80 of its own namespace and serves a socket of the host's.
func TestBindTCP(t *testing.T) {
	for _, tt := range []struct {
		host string
		Target
		binds string
	}{
		{"tcp4 127.0.0.1:0", wildcard4, "tcp4 0.0.0.0:80"},
		{"tcp4 127.0.0.1:0", wildcard4, "tcp4 127.0.0.1:80"},
		{"tcp6only [::1]:0", Target{Address: parsed("tcp6://:80")}, "tcp6only [::]:80"},
		{"tcp6 [::]:0", Target{Address: parsed("tcp://:80")}, "tcp6 [::]:80"},
		{"tcp6 [::]:0", Target{Address: parsed("tcp://:80")}, "mptcp6 [::]:80"},
		{"tcp4 127.0.0.1:0", Target{Address: parsed("tcp://192.0.2.1:80")}, "tcp4 192.0.2.1:80"},
	} {
		f, address := hostSocket(t, tt.host)
		tt.File = f
		s := superviseTargets(t, tt.Target)
		s.wants("bind at "+tt.binds, "ok")
		s.wants("name", address)
		s.wants("flags", "non-blocking false, close-on-exec false")
		if s.serving() || s.DescribeMissing() != "it does not listen at "+tt.Address.String() {
			t.Errorf("%s serves before it listens: %q", tt.binds, s.DescribeMissing())
		}
		s.wants("listen", "ok")
		if !s.serving() || s.DescribeMissing() != "" {
			t.Errorf("%s: listening is not serving: %q", tt.binds, s.DescribeMissing())
		}
		_ = fd.Control(f, func(fd int) error {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil || info.Sacked != 7 {
				t.Errorf("%s: the backlog is %d, not the program's: %v", tt.binds, info.Sacked, err)
			}
			return nil
		})
		s.askStream(address, "answer")
		s.end()
	}
}

// A program of IPv4 may get a socket of both families, but is told about.
func TestBindWarns(t *testing.T) {
	f, _ := hostSocket(t, "tcp6 [::]:0")
	said := make(chan string, 10)
	s := supervise(t, t.Context(), Policy{Warn: func(text string) { said <- text },
		Targets: []Target{{Address: parsed("tcp://:80"), File: f}}})
	s.wants("bind at tcp6 [::]:80", "ok")
	s.wants("bind at tcp4 0.0.0.0:80", "ok")
	s.wants("bind at tcp4 0.0.0.0:80", "ok")
	s.end()
	if text := <-said; !strings.Contains(text, "binds tcp4://:80, of IPv4 alone") || len(said) > 0 {
		t.Errorf("said %q and %d more", text, len(said))
	}
}

// A program that binds datagrams by IPv6 is told when it gets a socket of IPv4, by which it cannot name a client as one of IPv6.
func TestBindWarnsOfDatagrams(t *testing.T) {
	f, _ := hostSocket(t, "udp4 127.0.0.1:0")
	said := make(chan string, 10)
	s := supervise(t, t.Context(), Policy{Warn: func(text string) { said <- text },
		Targets: []Target{{Address: parsed("udp://:80"), File: f}}})
	s.wants("bind at udp4 0.0.0.0:80", "ok")
	s.wants("bind at udp6 [::]:80", "ok")
	s.wants("bind at udp6 [::]:80", "ok")
	s.end()
	if text := <-said; !strings.Contains(text, `binds udp://:80 by a socket of IPv6`) || !strings.Contains(text, `write target = "udp6://:80"`) || len(said) > 0 {
		t.Errorf("said %q and %d more", text, len(said))
	}
}

// Who binds again gets the same socket: a worker with a socket of its own, a child,
// the program after it has executed itself anew.
func TestBindAgain(t *testing.T) {
	f, address := hostSocket(t, "tcp4 127.0.0.1:0")
	wildcard4 := wildcard4
	wildcard4.File = f
	s := superviseTargets(t, wildcard4)
	for range 3 {
		s.wants("bind at tcp4 0.0.0.0:80", "ok")
		s.wants("listen", "ok")
		s.askStream(address, "answer")
	}
	s.wants("bind once more at tcp4 0.0.0.0:80", "ok") // what a signal may make of one call
	s.askStream(address, "child at tcp4 0.0.0.0:80")
	s.askStream(address, "executed at tcp4 0.0.0.0:80")
	s.end()
}

// What had been set on the socket that is thrown away is on ours.
func TestBindCarriesOver(t *testing.T) {
	f, _ := hostSocket(t, "tcp4 127.0.0.1:0")
	wildcard4 := wildcard4
	wildcard4.File = f
	var buffer int
	if err := fd.Control(f, func(fd int) (err error) {
		buffer, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	u, udp := hostSocket(t, "udp4 0.0.0.0:0")
	_, udpPort, _ := net.SplitHostPort(udp)
	s := superviseTargets(t, wildcard4, Target{Address: parsed("udp4://:53"), File: u})
	s.wants("bind with all set at tcp4 0.0.0.0:80", "ok")
	s.wants("flags", "non-blocking true, close-on-exec true")
	has := s.attempt("settings")
	for _, want := range []string{
		fmt.Sprintf("%d/%d=1", unix.SOL_SOCKET, unix.SO_KEEPALIVE), fmt.Sprintf("%d/%d=%d", unix.SOL_SOCKET, unix.SO_RCVBUF, buffer), // but for what is withheld
		fmt.Sprintf("%d/%d=1", unix.IPPROTO_TCP, unix.TCP_NODELAY), fmt.Sprintf("%d/%d=77", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE),
		fmt.Sprintf("%d/%d=16", unix.IPPROTO_IP, unix.IP_TOS), fmt.Sprintf("%d/%d=3", unix.SOL_SOCKET, unix.SO_PRIORITY),
	} {
		if !strings.Contains(has, want) {
			t.Errorf("%q is not among %s", want, has)
		}
	}
	s.wants("bind with all set at udp4 0.0.0.0:53", "ok")
	c, err := net.Dial("udp4", "127.0.0.1:"+udpPort)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	// IP_PKTINFO and IP_TTL
	s.wants("echo", fmt.Sprintf("with %d/%d %d/%d", unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IPPROTO_IP, unix.IP_TTL))
	_ = c.SetDeadline(time.Now().Add(5 * time.Minute))
	if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("no answer: %v", err)
	}
	s.end()
}

// With connect passed on, listen is not.
func TestBindUnix(t *testing.T) {
	for _, connects := range []bool{false, true} {
		t.Run(fmt.Sprint("connects ", connects), func(t *testing.T) { bindUnix(t, connects) })
	}
}

func bindUnix(t *testing.T, connects bool) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	stream, streamAt := hostSocket(t, "unix "+name("host"))
	abstract, _ := hostSocket(t, fmt.Sprintf("unix @intercept-%d", os.Getpid()))
	packet, packetAt := hostSocket(t, "unixpacket "+name("packet"))
	gram, gramAt := hostSocket(t, "unixgram "+name("gram"))
	s := supervise(t, t.Context(), Policy{Unix: connects, Targets: []Target{
		{Address: parsed("unix://" + name("inside")), File: stream},
		{Address: parsed("unix://@inside"), File: abstract},
		{Address: parsed("unixpacket://" + name("inside-packet")), File: packet},
		{Address: parsed("unixgram://" + name("inside-gram")), File: gram}}})

	// A stream by path is bound inside, where its node stays, and given when it listens.
	s.wants("bind at unix "+name("inside"), "ok")
	s.wants("name", name("inside"))
	if err := os.Chmod(name("inside"), 0o700); err != nil {
		t.Error(err)
	}
	s.wants("listen", "ok")
	s.wants("name", streamAt)
	s.askStream(streamAt, "answer")

	s.wants("bind at unix @inside", "ok")
	s.wants("listen", "ok")
	s.wants("name", fmt.Sprintf("@intercept-%d", os.Getpid()))

	s.wants("bind at unixpacket "+name("inside-packet"), "ok")
	s.wants("listen", "ok")
	s.wants("name", packetAt)
	if want := "it has not bound unixgram://" + name("inside-gram"); s.DescribeMissing() != want {
		t.Errorf("missing %q, want %q", s.DescribeMissing(), want)
	}
	s.wants("bind at unixgram "+name("inside-gram"), "ok")
	s.wants("name", gramAt)
	if !s.serving() {
		t.Error("not serving: " + s.DescribeMissing())
	}

	// Of another kind, or elsewhere: its own.
	s.wants("bind at unixpacket @inside", "ok")
	s.wants("name", "@inside")
	s.wants("bind at unix "+name("other"), "ok")
	s.wants("listen", "ok")
	s.wants("name", name("other"))
	s.end()
}

// What is no target stays in the service's own namespace, where it may be anything.
func TestBindElsewhere(t *testing.T) {
	f, _ := hostSocket(t, "tcp4 127.0.0.1:0")
	specific := Target{Address: parsed("tcp://127.0.0.1:80"), File: f}
	s := superviseTargets(t, specific)
	for _, at := range []string{"tcp4 0.0.0.0:80", "tcp4 127.0.0.1:81", "tcp6 [::1]:80", "udp4 127.0.0.1:80", "udp6only [::]:80"} {
		s.wants("bind at "+at, "ok")
		_, address, _ := strings.Cut(at, " ")
		s.wants("name", address)
		if strings.HasPrefix(at, "tcp") {
			s.wants("listen", "ok")
		}
	}
	s.wants("bind at tcp4 192.0.2.1:80", "cannot assign requested address")
	want := "it has not bound tcp://127.0.0.1:80; it has bound tcp4://:80, tcp://127.0.0.1:81, tcp://192.0.2.1:80, tcp://[::1]:80, udp6://:80, udp://127.0.0.1:80, which is no target"
	if got := s.DescribeMissing(); got != want {
		t.Errorf("missing: %s\nwant %s", got, want)
	}
	if s.serving() {
		t.Error("it serves")
	}
	s.wants("own tcp refused", "operation not permitted")
	s.end()
}

// The sockets of the host's that the service has cannot be bound, whatever it swaps.
func TestBindEscapes(t *testing.T) {
	const refused = "operation not permitted"
	f, address := hostSocket(t, "tcp4 127.0.0.1:0")
	wildcard4 := wildcard4
	wildcard4.File = f
	free := 0
	for free == 0 { // a port with nothing at it and at the one below, and none that the kernel gives to clients
		if n := 11000 + rand.IntN(9000); unbound(n) && unbound(n-1) {
			free = n
		}
	}
	freed := wildcard4
	freed.Address.Port = uint32(free)
	s := superviseTargets(t, wildcard4, freed)
	for _, at := range []string{"tcp4 0.0.0.0:80", "tcp4 127.0.0.1:80", fmt.Sprintf("tcp4 127.0.0.1:%d", free-1)} {
		s.wants("bind the listener there at "+at, refused)
	}
	s.wants("swap the descriptor at tcp4 0.0.0.0:80", "ok")
	s.wants(fmt.Sprintf("swap the address at tcp4 0.0.0.0:%d", free), "true")
	s.client.Close() // now the connection is over, and has no port any more
	for _, at := range []string{"tcp4 0.0.0.0:80", fmt.Sprintf("tcp4 127.0.0.1:%d", free-1)} {
		s.wants("bind the connection there at "+at, refused)
	}
	s.wants("listen on the connection", refused)
	for _, n := range []int{free, free - 1} {
		if !unbound(n) {
			t.Errorf("port %d of the host is taken", n)
		}
	}
	s.wants("bind without a family at tcp4 0.0.0.0:80", "ok") // the kernel takes it for IPv4
	s.wants("name", address)
	s.wants("bind at tcp4 0.0.0.0:0", "ok")
	s.wants("bind once more at tcp4 0.0.0.0:80", "invalid argument")
	s.wants("bind at tcp4 0.0.0.0:80", "ok")
	s.wants("listen", "ok")
	s.askStream(address, "answer")
	s.end()
}

func unbound(port int) bool {
	fd, sa := open(fmt.Sprintf("tcp4 127.0.0.1:%d", port))
	defer unix.Close(fd)
	return unix.Bind(fd, sa) == nil
}

// Paths are not passed on where nothing stands behind us, but bound for the service: with its
// umask, in its root.
func TestBindAlone(t *testing.T) {
	dir := t.TempDir()
	f, _ := hostSocket(t, "tcp4 127.0.0.1:0")
	wildcard4 := wildcard4
	wildcard4.File = f
	s := supervise(t, t.Context(), Policy{Targets: []Target{wildcard4}, Alone: true})
	node := filepath.Join(dir, "longer-than-16")
	s.wants("bind at unix "+node, "ok")
	if info, err := os.Stat(node); err != nil || info.Mode().Type() != os.ModeSocket || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	s.wants("bind once more at unix "+node, "ok") // as after a signal, before Linux 5.19
	s.wants("bind at unix "+node, "address already in use")
	s.wants("bind at unix "+dir+"/none/s", "no such file or directory")
	s.wants("bind at unix @longer-than-16-bytes", "ok")
	s.wants("bind at tcp4 0.0.0.0:81", "ok") // of its own network
	s.wants("bind at tcp4 0.0.0.0:1081", "ok")
	s.wants("bind at tcp4 0.0.0.0:80", "ok")
	s.end()
}

// Of a program that is observed each address is told that it binds, once, and which target that is.
func TestBindObserved(t *testing.T) {
	f, _ := hostSocket(t, "tcp4 127.0.0.1:0")
	path, _ := hostSocket(t, "unix "+filepath.Join(t.TempDir(), "host"))
	inside := filepath.Join(t.TempDir(), "inside")
	for _, targets := range [][]Target{{{Address: parsed("tcp4://:80"), File: f}, {Address: parsed("unix://" + inside), File: path}}, nil} {
		var told []string
		s := supervise(t, t.Context(), Policy{Own: true, IP: true, Unix: true, Targets: targets, Tell: func(f spec.Finding) {
			if text := f.Bound.String() + " for " + f.For.String(); f.Path == "" {
				told = append(told, text)
			} else if f.Want == spec.Make {
				told = append(told, "makes "+f.Path)
			}
		},
			Refusal: func(uint32, uint32, [6]uint64) spec.Refusal { return spec.Refusal{Asked: true} }})
		for _, at := range []string{"tcp4 127.0.0.1:81", "tcp4 127.0.0.1:81", "tcp4 0.0.0.0:80", "unix " + inside} {
			_ = os.Remove(inside)
			s.wants("bind at "+at, "ok")
		}
		s.end()
		want := []string{"tcp://127.0.0.1:81 for ://", "tcp4://:80 for ://", "makes " + inside, "unix://" + inside + " for ://"}
		if targets != nil {
			want[1], want[3] = "tcp4://:80 for tcp4://:80", "unix://"+inside+" for unix://"+inside
		}
		if !slices.Equal(told, want) {
			t.Errorf("with %d targets: %q, not %q", len(targets), told, want)
		}
	}
}
