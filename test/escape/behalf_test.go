package escape

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/test/escape/wire"
)

// What the activator does on behalf of a service it does with the service's rights: these
// have it do something that the service could not do itself.

// hostFolder is a folder of a file system that counts its inodes from 1, that is not the
// service's /tmp.
func hostFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "esc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
		t.Fatalf("/dev/shm is no tmpfs: %v", err)
	}
	return dir
}

// victimSocket is a stream socket of the host's that only we may connect to; it tells what
// it hears.
func victimSocket(t *testing.T, w *world, path string) (heard chan string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	heard = make(chan string, 8)
	w.serveUntilEnd(l, func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 100)
			_ = c.SetDeadline(time.Now().Add(patience))
			n, _ := c.Read(b)
			heard <- string(b[:n]) // before the client sees an end
			c.Close()
		}
	})
	return heard
}

const misled = `[[socket]]
listen = ["tcp://127.0.0.1:%[1]s"]
target = "unix:///tmp/target"

[service]
# %[2]s %[3]s %[4]s
exec = [%[5]q, "mislead", "/tmp/target", "/dev/shm/NAME/victim"]
handover = "proxy"
start_timeout = "1s"
hold = "1s"

[sandbox]
read_only = ["/dev/shm/NAME"]
`

// TestMisled: with handover = "proxy" a client is carried to the program alone, also when its
// path leads to a socket of the host's that only we may connect to, and it listens at a
// decoy of the same number.
func TestMisled(t *testing.T) {
	w := newWorld(t)
	dir := hostFolder(t)
	for i := range 200 { // the service's own file system has a few inodes already
		if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	heard := victimSocket(t, w, filepath.Join(dir, "victim"))
	s := startActivator(t, w, wire.Probe{}, "", strings.ReplaceAll(misled, "NAME", filepath.Base(dir)), "").(*running)
	c, err := net.Dial("tcp", w.tcp4)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(w.nonce + "\n")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, err = c.Read(make([]byte, 1)) // until it is turned away
	if errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(s.output(), "the decoy stands") {
		t.Errorf("the probe proves nothing: %v\n%s", err, s.output())
	}
	select {
	case got := <-heard:
		t.Errorf("GOT OUT: a client of the service is connected to the host, which hears %q", got)
	default:
	}
}
