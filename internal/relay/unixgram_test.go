package relay

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestUnixKinds(t *testing.T) {
	m := newMaker(t)
	dir := t.TempDir()
	for _, host := range []string{filepath.Join(dir, "host"), "@relay-test-host"} {
		for _, row := range []struct{ name, client, seen string }{
			{"abstract client", "@relay-test-client", "@relay-test-client"},
			{"client with a path", filepath.Join(dir, "client"), "@" + filepath.Join(dir, "client")},
			{"unnamed client", "", "@"},
		} {
			t.Run(filepath.Base(host)+"/"+row.name, func(t *testing.T) {
				f, conn := hostSocket(t, "unixgram", host)
				d := standIn(t, m, f, Options{})
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
