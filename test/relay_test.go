package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// childNamed is the pid of a child of the activator, by its first word.
func childNamed(t *testing.T, a *activator, name string) int {
	t.Helper()
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if first, _, _ := strings.Cut(string(text), "\x00"); err != nil || first != name {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(a.cmd.Process.Pid) {
			return pid
		}
	}
	return 0
}

// Somebody kills the process that makes sockets for the relay's clients: those
// that it has go on, and when they are not enough the service is started anew with
// another relay. Every client is answered, also the one whose socket could not be had, and
// asks only once.
func TestRelayMakerIsKilled(t *testing.T) {
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
	if !ask(0) {
		t.Fatal("no answer")
	}
	maker := childNamed(t, a, "activator-relay")
	if maker == 0 {
		t.Fatal("no relay runs")
	}
	if err := syscall.Kill(maker, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i := 1; a.log.count("msg=\"relay ended") == 0; i++ {
		if i > 2000 {
			t.Fatal("2,000 clients need no new socket")
		}
		if !ask(i) {
			t.Fatalf("client %d is not answered", i)
		}
	}
	a.waitN(2, "state=running")
	if again := childNamed(t, a, "activator-relay"); again == 0 || again == maker {
		t.Errorf("maker %d, before it was %d", again, maker)
	}
}
