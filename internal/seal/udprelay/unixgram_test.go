package udprelay

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"activator/internal/kernel/sockaddr"

	"golang.org/x/sys/unix"
)

func TestUnixKinds(t *testing.T) {
	m := newOwner(t)
	dir := t.TempDir()
	for _, host := range []string{filepath.Join(dir, "host"), own + "host"} {
		for _, row := range []struct{ name, client, seen string }{
			{"abstract client", own + "client", own + "client"},
			{"client with a path", filepath.Join(dir, "client"), "@" + filepath.Join(dir, "client")},
			{"unnamed client", "", "@"},
		} {
			t.Run(filepath.Base(host)+"/"+row.name, func(t *testing.T) {
				f, conn := hostSocket(t, "unixgram", host)
				d := openRelay(t, m, f, Options{})
				run(t, d)
				inner := service(t, d)
				if inner.LocalAddr().String() != conn.LocalAddr().String() {
					t.Errorf("the inner socket is at %v, the host's at %v", inner.LocalAddr(), conn.LocalAddr())
				}
				var local *net.UnixAddr
				if row.client != "" {
					local = &net.UnixAddr{Name: row.client, Net: "unixgram"}
				}
				c, err := net.DialUnix("unixgram", local, &net.UnixAddr{Name: host, Net: "unixgram"})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = c.Close(); _ = os.Remove(row.client) })
				if _, err := c.Write([]byte("question")); err != nil {
					t.Fatal(err)
				}
				text, from := receive(t, inner)
				if row.client == "" {
					if text != "question" || from != nil && from.String() != "" {
						t.Errorf("the service sees %q from %v", text, from)
					}
					return
				}
				if text != "question" || from.String() != row.seen {
					t.Errorf("the service sees %q from %v, not from %v", text, from, row.seen)
				}
				if _, err := inner.WriteTo([]byte("answer"), from); err != nil {
					t.Fatal(err)
				}
				if text, _ := receive(t, c); text != "answer" {
					t.Errorf("the client sees %q", text)
				}
			})
		}
	}
}

func dialUnix(t testing.TB, name, host string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}, &net.UnixAddr{Name: host, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		if name[0] == '/' {
			_ = os.Remove(name)
		}
	})
	return c
}

func tell(t testing.TB, c *net.UnixConn, text string) {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

// TestUnixRepliesOnly: the host's names and paths are out of reach.
func TestUnixRepliesOnly(t *testing.T) {
	dir := t.TempDir()
	f, _ := hostSocket(t, "unixgram", own+"only")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	for _, name := range []string{own + "stranger", dir + "/stranger"} {
		_, stranger := hostSocket(t, "unixgram", name)
		if name[0] == '@' {
			if _, err := inner.WriteTo([]byte("out"), stranger.LocalAddr()); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// The text of a path is a name inside, and that of a client only.
		if _, err := inner.WriteTo([]byte("out"), &net.UnixAddr{Name: "@" + dir + "/stranger", Net: "unixgram"}); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", name, err)
		}
		silent(t, stranger, name)
	}
}

func TestUnixSizes(t *testing.T) {
	f, _ := hostSocket(t, "unixgram", own+"sizes")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	c := dialUnix(t, own+"sizes-client", own+"sizes")
	for _, size := range []int{1, 0, 65536, 150_000, 3} {
		tell(t, c, pattern(size))
		text, from := receive(t, inner)
		if text != pattern(size) {
			t.Fatalf("%d bytes became %d, or others", size, len(text))
		}
		ask(t, inner, from, text)
		if text, _ := receive(t, c); text != pattern(size) {
			t.Fatalf("an answer of %d bytes became %d, or others", size, len(text))
		}
	}
	for _, fd := range []int{d.socket.fd, descriptor(t, c)} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	tell(t, c, pattern(400_000)) // more than is kept as a buffer
	if text, _ := receive(t, inner); text != pattern(400_000) {
		t.Fatalf("400000 bytes became %d, or others", len(text))
	}
}

// TestUnixQueue: as TestUDPQueue; here the kernel says when the queues are full.
func TestUnixQueue(t *testing.T) {
	f, _ := hostSocket(t, "unixgram", own+"queue")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	first := service(t, d)
	c := dialUnix(t, own+"queue-client", own+"queue")
	tell(t, c, "hello")
	receive(t, first)
	_ = first.Close()
	sent := 0
	for {
		_ = c.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := c.Write(fmt.Append(nil, sent)); err != nil {
			break
		}
		sent++
	}
	if sent < 20 {
		t.Errorf("only %d datagrams have room in two queues", sent)
	}
	_ = c.SetWriteDeadline(time.Time{})
	second := service(t, d)
	for i := range sent {
		if text, _ := receive(t, second); text != fmt.Sprint(i) {
			t.Fatalf("datagram %d of %d is %q", i, sent, text)
		}
	}
	tell(t, c, "last")
	if text, _ := receive(t, second); text != "last" {
		t.Errorf("then came %q", text)
	}
}

// TestUnixSlowClient: one that does not read holds up no other, and
// loses nothing, until the send buffer of the service is full of what it has not
// read: without a relay it would be the same.
func TestUnixSlowClient(t *testing.T) {
	f, host := hostSocket(t, "unixgram", own+"slow")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	_, slow := hostSocket(t, "unixgram", own+"slow-client") // not connected: it has room for 10
	other := dialUnix(t, own+"quick-client", own+"slow")
	ask(t, slow, host.LocalAddr(), "hello")
	_, from := receive(t, inner)
	const many = 60
	for i := range many {
		ask(t, inner, from, fmt.Sprint(i))
	}
	for range 3 {
		tell(t, other, "hello")
		_, from = receive(t, inner)
		ask(t, inner, from, "answer")
		if text, _ := receive(t, other); text != "answer" {
			t.Errorf("the other one sees %q", text)
		}
	}
	for i := range many {
		if text, _ := receive(t, slow); text != fmt.Sprint(i) {
			t.Fatalf("answer %d of %d is %q", i, many, text)
		}
	}
}

// TestUnixSamePath: a client that comes back at its path is answered there.
func TestUnixSamePath(t *testing.T) {
	dir := t.TempDir()
	f, _ := hostSocket(t, "unixgram", own+"again")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	for i := range 3 {
		c := dialUnix(t, dir+"/client", own+"again")
		tell(t, c, "question")
		_, from := receive(t, inner)
		ask(t, inner, from, fmt.Sprint("answer ", i))
		if text, _ := receive(t, c); text != fmt.Sprint("answer ", i) {
			t.Errorf("the client sees %q", text)
		}
		_ = c.Close()
		_ = os.Remove(dir + "/client")
	}
}

// TestUnixForgedPath: what is at a client's path is not the client's: a symlink
// to a socket of another user, which root could reach.
func TestUnixForgedPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can reach what is another user's")
	}
	dir := t.TempDir()
	_, victim := hostSocket(t, "unixgram", dir+"/victim")
	if err := os.Chown(dir+"/victim", nobody, nobody); err != nil {
		t.Fatal(err)
	}
	f, _ := hostSocket(t, "unixgram", own+"forged")
	d := openRelay(t, newOwner(t), f, Options{})
	run(t, d)
	inner := service(t, d)
	c := dialUnix(t, dir+"/client", own+"forged")
	if err := os.Remove(dir + "/client"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/victim", dir+"/client"); err != nil {
		t.Fatal(err)
	}
	tell(t, c, "question")
	_, from := receive(t, inner)
	ask(t, inner, from, "out")
	silent(t, victim, "the victim")
}

// TestUnixCredentials: a service's words are not taken for root's, and what a
// client sends beside its words is dropped.
func TestUnixCredentials(t *testing.T) {
	f, _ := hostSocket(t, "unixgram", own+"creds")
	d := openRelay(t, newOwner(t), f, Options{UID: 61234, GID: 61235})
	run(t, d)
	inner := service(t, d)
	c := dialUnix(t, own+"creds-client", own+"creds")
	if err := unix.SetsockoptInt(descriptor(t, c), unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	before := len(openFiles(t))
	if err := unix.Sendmsg(descriptor(t, c), []byte("question"), unix.UnixRights(0, 1, 2), nil, 0); err != nil {
		t.Fatal(err)
	}
	b, oob := make([]byte, 64), make([]byte, 64)
	_ = inner.SetReadDeadline(time.Now().Add(waitTimeout))
	_, n, _, from, err := inner.(*net.UnixConn).ReadMsgUnix(b, oob)
	if err != nil || n != 0 {
		t.Fatalf("%d bytes of control messages, %v", n, err)
	}
	if after := len(openFiles(t)); after > before+1 { // the flow's node there is none
		t.Errorf("%d descriptors, before %d", after, before)
	}
	ask(t, inner, from, "answer")
	_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
	_, n, _, _, err = c.ReadMsgUnix(b, oob)
	if err != nil {
		t.Fatal(err)
	}
	want := os.Getuid()
	if want == 0 {
		want = 61234
	}
	if uid := senderOf(oob[:n]).uid; uid != want {
		t.Errorf("the answer is from user %d, not %d", uid, want)
	}
}

func openFiles(t testing.TB) []os.DirEntry {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

// TestUnixNoAllocations: nothing is allocated for a datagram, nor for its answer.
func TestUnixNoAllocations(t *testing.T) {
	for i, name := range []string{own + "allocations-client", t.TempDir() + "/client"} {
		f, host := hostSocket(t, "unixgram", fmt.Sprint(own+"allocations-", i))
		d := openRelay(t, newOwner(t), f, Options{})
		c := dialUnix(t, name, host.LocalAddr().String())
		fd := descriptor(t, c)
		var b [64]byte
		var from sockaddr.Raw
		exchange := func() {
			if n, err := unix.Write(fd, b[:10]); n != 10 {
				t.Fatal(err)
			}
			d.hostReady = true
			if _, err := d.carryRound(); err != nil {
				t.Fatal(err)
			}
			if n, err := echoOne(d.socket.fd, b[:], &from); n != 10 {
				t.Fatal(n, err)
			}
			d.flows.wakeFlow(d.flows.oldestFlow())
			if _, err := d.carryRound(); err != nil {
				t.Fatal(err)
			}
			if n, err := unix.Read(fd, b[:]); n != 10 {
				t.Fatal(n, err)
			}
		}
		exchange()
		if n := testing.AllocsPerRun(100, exchange); n != 0 {
			t.Errorf("%s: %v allocations for each exchange", name, n)
		}
	}
}
