package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// childNames are the first words of a process's children, without folders.
func childNames(pid int) (names []string) {
	for _, child := range childrenOf(pid) {
		text, _ := os.ReadFile("/proc/" + child + "/cmdline")
		first, _, _ := strings.Cut(string(text), "\x00")
		names = append(names, filepath.Base(first))
	}
	slices.Sort(names)
	return names
}

// A relay makes the sockets for its clients itself: nobody stands beside the activator but its
// guard and the program. Every client is answered, many more than there are sockets in advance.
func TestRelayHasNoProcess(t *testing.T) {
	dir := folder(t)
	a := activate(t, "--config", configureIn(t, dir, "echo", fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n", dir)))
	ask := func(i int) bool {
		c, err := net.DialUnix("unixgram", &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("@activator-%d-%d", os.Getpid(), i)}, &net.UnixAddr{Net: "unixgram", Name: dir + "/s"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 16)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		n, err := c.Read(got)
		return err == nil && string(got[:n]) == "hello"
	}
	for i := range 200 {
		if !ask(i) {
			t.Fatalf("client %d is not answered", i)
		}
	}
	a.wait("state=running")
	if got := childNames(a.cmd.Process.Pid); !slices.Equal(got, []string{"activator-guard", "echo"}) {
		t.Errorf("the activator's children are %q", got)
	}
}
