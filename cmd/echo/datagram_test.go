package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func randomBytes(n int) []byte {
	data := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	return data
}

// exchange sends a datagram over a connected socket: only an answer from the
// very address it was sent to is received.
func exchange(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	if _, err := c.Write(data); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, maxDatagram+1)
	n, err := c.Read(buffer)
	if err != nil || !bytes.Equal(buffer[:n], data) {
		t.Errorf("%d bytes came back of %d, %v", n, len(data), err)
	}
}

func TestUDP(t *testing.T) {
	v4, at4 := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	v6, at6 := socketFile(t, unix.AF_INET6, unix.SOCK_DGRAM, loopback6)
	p := start(t, []*os.File{v4, v6})
	for address, longest := range map[string]int{describeSocket(at4): 65507, describeSocket(at6): 65527} {
		c := dial(t, "udp", address)
		for _, size := range []int{0, 1, 0, 1024, 1025, 9000, longest, 0} {
			exchange(t, c, randomBytes(size))
		}
	}
	p.terminate()
	p.exit(exitOK)
}

// TestUDPAnswersFromTheAddressAsked: 127.0.0.0/8 is all ours, and the kernel's
// choice would be 127.0.0.1.
func TestUDPAnswersFromTheAddressAsked(t *testing.T) {
	v4, at4 := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{})
	dual, atDual := socketFile(t, unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{})
	start(t, []*os.File{v4, dual})
	port4, portDual := at4.(*unix.SockaddrInet4).Port, atDual.(*unix.SockaddrInet6).Port
	for _, address := range []string{
		fmt.Sprintf("127.0.0.1:%d", port4), fmt.Sprintf("127.0.0.77:%d", port4),
		fmt.Sprintf("[::1]:%d", portDual), fmt.Sprintf("127.1.2.3:%d", portDual),
	} {
		t.Run(address, func(t *testing.T) { exchange(t, dial(t, "udp", address), []byte("hello")) })
	}
}

// linkLocal returns an IPv6 link-local address of this machine with its zone.
func linkLocal() (string, bool) {
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		addresses, _ := i.Addrs()
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.To4() == nil && ip.IP.IsLinkLocalUnicast() && i.Flags&net.FlagUp != 0 {
				return ip.IP.String() + "%" + i.Name, true
			}
		}
	}
	return "", false
}

func TestUDPLinkLocal(t *testing.T) {
	address, ok := linkLocal()
	if !ok {
		t.Skip("no interface has a link-local address")
	}
	f, at := socketFile(t, unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{})
	start(t, []*os.File{f})
	exchange(t, dial(t, "udp", fmt.Sprintf("[%s]:%d", address, at.(*unix.SockaddrInet6).Port)), []byte("hello"))
}

// TestUDPSurvivesRefusals: answers to clients that are gone come back as errors.
func TestUDPSurvivesRefusals(t *testing.T) {
	f, at := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	if err := unix.SetsockoptInt(int(f.Fd()), unix.IPPROTO_IP, unix.IP_RECVERR, 1); err != nil {
		t.Fatal(err)
	}
	start(t, []*os.File{f})
	for range 50 {
		gone := dial(t, "udp", describeSocket(at))
		if _, err := gone.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		_ = gone.Close()
	}
	exchange(t, dial(t, "udp", describeSocket(at)), []byte("hello"))
}

// unixClient is a bound unix datagram socket connected to address.
func unixClient(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: path(t).Name, Net: "unixgram"}, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(waitTimeout)); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUnixDatagrams(t *testing.T) {
	for _, address := range []*unix.SockaddrUnix{path(t), abstract(t)} {
		f, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_DGRAM, address)
		p := start(t, []*os.File{f}, "--debug")
		c := unixClient(t, address.Name)
		for _, size := range []int{0, 1, 1025, maxDatagram, 0} {
			exchange(t, c, randomBytes(size))
		}
		unbound := dial(t, "unixgram", address.Name)
		if _, err := unbound.Write([]byte("nobody")); err != nil {
			t.Fatal(err)
		}
		p.await(&p.stderr, "6 bytes from a sender without an address: dropped")
		if _, err := c.Write(randomBytes(maxDatagram + 1)); err != nil {
			t.Fatal(err)
		}
		p.await(&p.stderr, fmt.Sprintf("more than %d bytes from", maxDatagram))
		exchange(t, c, []byte("never cut"))
		p.terminate()
		p.exit(exitOK)
	}
}

// TestUnixDatagramsOfADeafClient: one that never reads may fill our send
// buffer, but it neither stops us nor outlives itself.
func TestUnixDatagramsOfADeafClient(t *testing.T) {
	address := path(t)
	f, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_DGRAM, address)
	p := start(t, []*os.File{f}, "--debug")
	deaf := unixClient(t, address.Name)
	for range 2000 { // more than net.unix.max_dgram_qlen
		if _, err := deaf.Write([]byte("x")); err != nil {
			t.Fatal(err) // it would time out if we waited for it
		}
	}
	p.await(&p.stderr, "resource temporarily unavailable")
	_ = deaf.Close()
	if _, err := unixClient(t, address.Name).Write([]byte("the queue is done with")); err != nil {
		t.Fatal(err)
	}
	p.await(&p.stderr, "22 bytes to")
	exchange(t, unixClient(t, address.Name), []byte("hello"))
}

// TestPassedDescriptorsAreNotKept, on any unix socket.
func TestPassedDescriptorsAreNotKept(t *testing.T) {
	gram, packet, stream := path(t), path(t), path(t)
	a, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_DGRAM, gram)
	b, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_SEQPACKET, packet)
	c, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_STREAM, stream)
	p := start(t, []*os.File{a, b, c})
	clients := []*net.UnixConn{unixClient(t, gram.Name), dial(t, "unixpacket", packet.Name).(*net.UnixConn), dial(t, "unix", stream.Name).(*net.UnixConn)}
	count := func() int {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	for _, client := range clients {
		ask(t, client, "first")
	}
	before := count()
	for range 20 {
		for _, client := range clients {
			sendRights(t, client)
			if n, err := client.Read(make([]byte, 8)); n != 1 || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

func sendRights(t *testing.T, c *net.UnixConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var errno error
	if err := raw.Control(func(fd uintptr) { errno = unix.Sendmsg(int(fd), []byte("x"), unix.UnixRights(0, 1, 2), nil, 0) }); err != nil || errno != nil {
		t.Fatal(err, errno)
	}
}

// TestFIFO: what arrives goes to standard output.
func TestFIFO(t *testing.T) {
	name := path(t).Name
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	p := start(t, []*os.File{f})
	text := strings.Repeat("0123456789", 20_000)
	for range 2 { // two writers, one after the other
		w, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteString(text); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
	}
	p.await(&p.stdout, text+text)
	p.terminate()
	p.exit(exitOK)
	if p.stdout.String() != text+text {
		t.Error("more than was sent")
	}
}

// TestFIFOReadOnly ends with the last writer, so that the next one starts it.
func TestFIFOReadOnly(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, []*os.File{r})
	_ = r.Close()
	if _, err := w.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	p.exit(exitOK)
	if p.stdout.String() != "hello" {
		t.Errorf("got %q", p.stdout.String())
	}
}
