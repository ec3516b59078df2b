package listen

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// sendRights sends a byte with a descriptor.
func sendRights(fd int) error {
	null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	return unix.Sendmsg(fd, []byte("x"), unix.UnixRights(null), nil, unix.MSG_NOSIGNAL)
}

// rightsIn receives one message with room for a descriptor and counts those
// that came, which it closes.
func rightsIn(t *testing.T, fd int) (n int, err error) {
	t.Helper()
	data, control := make([]byte, 8), make([]byte, unix.CmsgSpace(4*4))
	_, size, _, _, err := unix.Recvmsg(fd, data, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:size])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			n += len(fds)
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
	return n, nil
}

// connectUnix connects a new socket of the network of s.
func connectUnix(t *testing.T, s *Socket) int {
	t.Helper()
	a := s.Spec().Address
	kind := kindOf(&spec.Socket{Address: a}, haveIPv6)
	fd, err := unix.Socket(kind.Family, kind.Type|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: a.Path}); err != nil {
		t.Fatal(err)
	}
	return fd
}

// TestRefuseRights holds that no descriptor comes in by a socket with
// pass_rights = false: not before accept, not after, not by a datagram. The
// sender is told, and nothing is installed. And with true all of it works.
func TestRefuseRights(t *testing.T) {
	for _, refuse := range []bool{true, false} {
		for _, network := range []string{"unix", "unixpacket", "unixgram"} {
			name := network + map[bool]string{true: " refuses", false: " passes"}[refuse]
			t.Run(name, func(t *testing.T) {
				if refuse && !CanRefuseRights() {
					ktest.Skip(t, "no SO_PASSRIGHTS: Linux 6.16")
				}
				s := open(t, network+"://"+t.TempDir()+"/s", func(o *spec.Options) { o.RefuseRights = refuse })
				checkRights(t, s, refuse)
				if what, err := s.Mend(); what != "" || err != nil {
					t.Errorf("Mend: %q, %v", what, err)
				}
			})
		}
	}
}

func checkRights(t *testing.T, s *Socket, refuse bool) {
	t.Helper()
	c := connectUnix(t, s)
	try := func(when string, receiver func() int) {
		t.Helper()
		err := sendRights(c)
		if refuse != (err == unix.EPERM) || (!refuse && err != nil) {
			t.Errorf("%s: a client that sends a descriptor: %v", when, err)
		}
		n, err := rightsIn(t, receiver())
		switch {
		case refuse && (n != 0 || err != unix.EAGAIN):
			t.Errorf("%s: %d descriptors came in, %v", when, n, err)
		case !refuse && (n != 1 || err != nil):
			t.Errorf("%s: %d descriptors came in, %v, want one", when, n, err)
		}
	}
	asService(t, s, func(fd int) {
		if !s.Spec().Address.IsStream() {
			try("datagram", func() int { return fd })
			return
		}
		conn := -1
		try("before accept", func() int {
			var err error
			if conn, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			return conn
		})
		defer unix.Close(conn)
		try("after accept", func() int { return conn })
		// What is no descriptor goes through.
		if _, err := unix.Write(c, []byte("hello")); err != nil {
			t.Error(err)
		}
		if n, err := rightsIn(t, conn); n != 0 || err != nil {
			t.Errorf("data: %d descriptors, %v", n, err)
		}
	})
}

// TestRightsTurnedOn lets a service allow descriptors again on its listener:
// that ends with Mend for who connects then. Who connected meanwhile keeps it,
// and the service could have it on a connection of its own: only a filter on
// setsockopt(2) keeps that out.
func TestRightsTurnedOn(t *testing.T) {
	if !CanRefuseRights() {
		ktest.Skip(t, "no SO_PASSRIGHTS: Linux 6.16")
	}
	s := open(t, "unix://"+t.TempDir()+"/s", func(o *spec.Options) { o.RefuseRights = true })
	asService(t, s, func(fd int) {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 1); err != nil {
			t.Fatal(err)
		}
	})
	if err := sendRights(connectUnix(t, s)); err != nil {
		t.Errorf("while the service had it on: %v", err)
	}
	if what, err := s.Mend(); err != nil || !strings.Contains(what, "SO_PASSRIGHTS; set back") {
		t.Errorf("Mend: %q, %v", what, err)
	}
	if err := sendRights(connectUnix(t, s)); err != unix.EPERM {
		t.Errorf("after Mend: %v", err)
	}
}

// A kernel that cannot refuse them opens the socket all the same.
func TestCanRefuseRights(t *testing.T) {
	s := open(t, "unix://"+t.TempDir()+"/s", func(o *spec.Options) { o.RefuseRights = true })
	if refused := sendRights(connectUnix(t, s)) == unix.EPERM; refused != CanRefuseRights() {
		t.Errorf("CanRefuseRights says %v, a client's descriptor is refused: %v", CanRefuseRights(), refused)
	}
	for _, a := range ProbeAbilities() {
		if a.Name == "refusal of descriptors" {
			if a.OK != CanRefuseRights() {
				t.Errorf("%+v", a)
			}
			return
		}
	}
	t.Error("not among the abilities")
}

// abstractWitness is a datagram socket with a name of the kernel's choice, unix(7).
func abstractWitness(t *testing.T) (fd int, name unix.Sockaddr) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrUnix{}); err != nil {
		t.Fatal(err)
	}
	if name, err = unix.Getsockname(fd); err != nil {
		t.Fatal(err)
	}
	return fd, name
}

// A socket that only receives sends nothing, neither to a path nor to an abstract name
// nor to a peer, whoever holds it, and goes on receiving; so does what Mend binds anew.
func TestReceiveOnly(t *testing.T) {
	witness, name := abstractWitness(t)
	sp := socketSpec(t, "unixgram://"+t.TempDir()+"/s", func(o *spec.Options) { o.PassCredentials = true })
	sp.Seal = spec.ReceiveOnly
	s, err := openOne(sp, Means{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check := func() {
		t.Helper()
		if _, err := unix.Write(connectUnix(t, s), []byte("x")); err != nil {
			t.Errorf("a client: %v", err)
		}
		asService(t, s, func(fd int) {
			if n, err := unix.Read(fd, make([]byte, 8)); n != 1 || err != nil {
				t.Errorf("the service receives %d bytes, %v", n, err)
			}
			if err := unix.Sendto(fd, []byte("x"), 0, name); err != unix.EPIPE {
				t.Errorf("sendto: %v", err)
			}
			if err := unix.Connect(fd, name); err != nil {
				t.Errorf("connect: %v", err)
			}
			if _, err := unix.Write(fd, []byte("x")); err != unix.EPIPE {
				t.Errorf("write: %v", err)
			}
		})
	}
	check()
	if what, err := s.Mend(); err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
	check()
	asService(t, s, func(fd int) { _ = unix.Shutdown(fd, unix.SHUT_RD) })
	if what, err := s.Mend(); err != nil || !strings.Contains(what, "shut it down") {
		t.Errorf("Mend: %q, %v", what, err)
	}
	check()
	if n, _, err := unix.Recvfrom(witness, make([]byte, 8), unix.MSG_DONTWAIT); err != unix.EAGAIN {
		t.Errorf("the witness got %d bytes, %v", n, err)
	}
}
