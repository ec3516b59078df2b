package escape

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/test/escape/wire"
)

const smuggler = `[[socket]]
listen = ["unix://%[3]s"]
pass_rights = true

[service]
# %[1]s %[2]s %[4]s
exec = [%[5]q, "smuggle", "TEXT"]
file_descriptor_store_max = 20
`

// TestSmuggled: what an instance leaves for the next one leads nowhere. A client that helps it passes it a socket of
// the host's, which is connected already, and a file, and ends; the instance stores both, its own socket, its client, and
// a socket in whose queue all of them wait. The next instance has memory, and nothing else.
func TestSmuggled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	witness, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	s := startActivator(t, w, wire.Probe{}, "", strings.ReplaceAll(smuggler, "TEXT", w.secret), "")
	if said := w.passTo(witness.LocalAddr().String()); said != "stored\n" {
		t.Fatalf("the first instance says %q", said)
	}
	given := ""
	for range 2 { // the one that still runs may end without a look at its queue
		if given = w.askSmuggler(nil); given != "" {
			break
		}
	}
	if given != "memory\n" {
		t.Errorf("GOT OUT: the next instance has been given %q\n%s", given, s.output())
	}
	_ = witness.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	text := make([]byte, 100)
	if n, _, err := witness.ReadFrom(text); err == nil {
		t.Errorf("GOT OUT: the next instance has sent %q by the socket of a client that has ended", text[:n])
	}
}

// passTo passes the service a socket that is connected to address, and a file.
func (w *world) passTo(address string) string {
	conn, err := net.Dial("udp4", address)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	socket, err := conn.(*net.UDPConn).File()
	if err != nil {
		w.t.Fatal(err)
	}
	defer socket.Close()
	file, err := os.Open(w.file)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	return w.askSmuggler(unix.UnixRights(int(socket.Fd()), int(file.Fd())))
}

// askSmuggler is one client of the service, and returns its answer.
func (w *world) askSmuggler(rights []byte) string {
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: w.unix, Net: "unix"})
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	if _, _, err := c.WriteMsgUnix([]byte("take\n"), rights, nil); err != nil && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		w.t.Fatal(err)
	}
	text := make([]byte, 1000)
	n, _ := c.Read(text)
	return string(text[:n])
}
