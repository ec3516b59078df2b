package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// streams opens a listener of every stream kind package net can dial.
func streams(t *testing.T) (files []*os.File, networks, addresses []string) {
	t.Helper()
	for _, s := range []struct {
		domain  int
		address unix.Sockaddr
		network string
	}{
		{unix.AF_INET, loopback4, "tcp"},
		{unix.AF_INET6, loopback6, "tcp"},
		{unix.AF_UNIX, path(t), "unix"},
		{unix.AF_UNIX, abstract(t), "unix"},
	} {
		f, address := socketFile(t, s.domain, unix.SOCK_STREAM, s.address)
		files, networks, addresses = append(files, f), append(networks, s.network), append(addresses, describeSocket(address))
	}
	return files, networks, addresses
}

// TestStreams: the client ends its side at once and still gets everything, then
// our end of file.
func TestStreams(t *testing.T) {
	files, networks, addresses := streams(t)
	p := start(t, files, "--drain", "1h")
	random := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(random)
	for i := range files {
		for _, size := range []int{0, 1, 6, 4095, 4096, 4097, 32768, 100_000, len(random)} {
			t.Run(fmt.Sprintf("%s/%d", addresses[i], size), func(t *testing.T) {
				halfClose(t, dial(t, networks[i], addresses[i]), random[:size])
			})
		}
	}
	p.terminate()
	p.exit(exitOK)
	for _, a := range addresses[2:3] {
		if _, err := os.Stat(a); err != nil {
			t.Errorf("the path is the activator's: %v", err)
		}
	}
}

func halfClose(t *testing.T, c net.Conn, data []byte) {
	t.Helper()
	go func() {
		if _, err := c.Write(data); err != nil {
			t.Error(err)
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d, %v", len(got), len(data), err)
	}
}

// TestManyAtOnce: connections do not wait for each other.
func TestManyAtOnce(t *testing.T) {
	files, networks, addresses := streams(t)
	start(t, files)
	var open []net.Conn
	for i := range 100 {
		c := dial(t, networks[i%4], addresses[i%4])
		ask(t, c, "first")
		open = append(open, c)
	}
	for i := range open {
		ask(t, open[len(open)-1-i], "second")
	}
}

// TestClientsThatBreakOff do not disturb the others.
func TestClientsThatBreakOff(t *testing.T) {
	files, networks, addresses := streams(t)
	p := start(t, files, "--drain", "1h") // for ever if one of them is not noticed
	for i := range 40 {
		c := dial(t, networks[i%4], addresses[i%4])
		if _, err := c.Write(make([]byte, 100_000)); err != nil {
			t.Fatal(err)
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset
		}
		_ = c.Close()
	}
	for i := range files {
		halfClose(t, dial(t, networks[i], addresses[i]), []byte("hello"))
	}
	p.terminate()
	p.exit(exitOK)
}

func TestVsock(t *testing.T) {
	const port, local = 47300, 1 // VMADDR_CID_LOCAL
	if err := vsockLoopback(local); err != nil {
		// Not ktest.Skip: it is the kernel's to have, and no package brings it.
		t.Skipf("bind vsock://%d: %v: this kernel has no vsock_loopback", local, err)
	}
	f, _ := socketFile(t, unix.AF_VSOCK, unix.SOCK_STREAM, &unix.SockaddrVM{CID: local, Port: port})
	start(t, []*os.File{f})
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := os.NewFile(uintptr(fd), "client")
	defer func() { _ = c.Close() }()
	if err := unix.Connect(fd, &unix.SockaddrVM{CID: local, Port: port}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(c); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// vsockLoopback tries whether the kernel can talk vsock to itself.
func vsockLoopback(cid uint32) error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrVM{CID: cid, Port: unix.VMADDR_PORT_ANY})
}

// TestPackets: records keep their bounds, empty ones too; the end is not one.
func TestPackets(t *testing.T) {
	for _, address := range []*unix.SockaddrUnix{path(t), abstract(t)} {
		f, _ := socketFile(t, unix.AF_UNIX, unix.SOCK_SEQPACKET, address)
		p := start(t, []*os.File{f})
		c := dial(t, "unixpacket", address.Name).(*net.UnixConn)
		records := []string{"one", "", "three", "", "", strings.Repeat("x", maxDatagram), "last"}
		for _, r := range records {
			if _, err := c.Write([]byte(r)); err != nil {
				t.Fatal(err)
			}
		}
		buffer := make([]byte, maxDatagram+1)
		for _, want := range records {
			n, err := c.Read(buffer)
			if want == "" && err == io.EOF {
				err = nil // package net takes an empty record for the end
			}
			if err != nil || string(buffer[:n]) != want {
				t.Fatalf("got %.20q, want %.20q, %v", buffer[:n], want, err)
			}
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buffer); n != 0 || err != io.EOF {
			t.Errorf("after our end: %d, %v", n, err)
		}
		p.terminate() // ends, so the connection did
		p.exit(exitOK)
	}
}

// TestPassedConnection: with accept = true it is all there is, and its end ours.
func TestPassedConnection(t *testing.T) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_SEQPACKET} {
		fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
		p := start(t, []*os.File{theirs})
		_ = theirs.Close()
		c, err := net.FileConn(ours)
		_ = ours.Close()
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c, "hello")
		_ = c.Close()
		p.exit(exitOK)
	}
}

func TestPassedTCPConnection(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c := dial(t, "tcp", l.Addr().String())
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := accepted.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, []*os.File{f}, "--debug")
	_, _ = f.Close(), accepted.Close()
	halfClose(t, c, []byte("hello"))
	p.exit(exitOK)
}

// TestSocat is what a user types; socat waits half a second only.
func TestSocat(t *testing.T) {
	socat, err := exec.LookPath("socat")
	if err != nil {
		ktest.Skip(t, "%v", err)
	}
	files, _, addresses := streams(t)
	udp4, at4 := socketFile(t, unix.AF_INET, unix.SOCK_DGRAM, loopback4)
	udp6, at6 := socketFile(t, unix.AF_INET6, unix.SOCK_DGRAM, loopback6)
	start(t, append(files, udp4, udp6))
	for _, to := range []string{"tcp4:" + addresses[0], "tcp6:" + addresses[1], "unix:" + addresses[2], "abstract-connect:" + addresses[3][1:],
		"udp4:" + describeSocket(at4), "udp6:" + describeSocket(at6)} {
		cmd := exec.Command(socat, "-", to)
		cmd.Stdin = strings.NewReader("hello\n")
		if out, err := cmd.CombinedOutput(); string(out) != "hello\n" || err != nil {
			t.Errorf("%s: %q, %v", to, out, err)
		}
	}
}

// BenchmarkStream echoes over one connection; its client shares the machine.
func BenchmarkStream(b *testing.B) {
	for _, network := range []string{"tcp", "unix"} {
		b.Run(network, func(b *testing.B) { benchmarkStream(b, network) })
	}
}

func benchmarkStream(b *testing.B, network string) {
	l, err := net.Listen(network, map[string]string{"tcp": "127.0.0.1:0", "unix": b.TempDir() + "/s"}[network])
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperVariable+"=activated", "TEST_NAMES=")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
	c, err := net.DialTimeout(network, l.Addr().String(), waitTimeout)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = c.Close() }()

	chunk := make([]byte, 1<<20)
	b.SetBytes(int64(len(chunk)))
	var reader sync.WaitGroup
	reader.Go(func() {
		in := make([]byte, 1<<20)
		for left := b.N * len(chunk); left > 0; {
			n, err := c.Read(in)
			if err != nil {
				b.Error(err)
				return
			}
			left -= n
		}
	})
	for range b.N {
		if _, err := c.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	reader.Wait()
}
