package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
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

// A relay makes the sockets for its clients itself: no process stands beside the activator but its
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
		_ = c.SetReadDeadline(time.Now().Add(waitTimeout))
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

// longDatagram is more than a socket sends without send_buffer, net.core.wmem_default.
const longDatagram = 300_000

// What a service may send is said by its configuration, also where another socket stands in
// for the one that this is about.
func TestRelayedSends(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	service := "[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=sender\"]\n"
	activate(t, "--config", configureIn(t, dir, "long", fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/s\"]\nsend_buffer = \"1M\"\n"+service, dir)),
		"--config", configureIn(t, dir, "broadcast", fmt.Sprintf("[[socket]]\nlisten = [\"udp://127.0.0.1:%d\"]\nbroadcast = true\n"+service, n)))
	ask := func(network string, from, to net.Addr) []byte {
		t.Helper()
		c, err := (&net.Dialer{LocalAddr: from}).Dial(network, to.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2*longDatagram)
		n, err := c.Read(got)
		if err != nil {
			t.Fatal(err)
		}
		return got[:n]
	}
	if got := ask("unixgram", &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("@activator-long-%d", os.Getpid())}, &net.UnixAddr{Net: "unixgram", Name: dir + "/s"}); len(got) != longDatagram {
		t.Errorf("%d bytes, want %d", len(got), longDatagram)
	}
	// Root's socket only answers, which the kernel says otherwise.
	if got := string(ask("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n})); got != "<nil>" && (got != syscall.EPERM.Error() || os.Geteuid() != 0) {
		t.Errorf("a broadcast: %s", got)
	}
}
