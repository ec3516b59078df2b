package test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"activator/internal/ktest"
)

// activateWithin starts the activator with a limit of descriptors.
func activateWithin(t *testing.T, limit int, args ...string) *activator {
	t.Helper()
	script := fmt.Sprintf("ulimit -n %d && exec \"$0\" \"$@\"", limit)
	a := launchAs(t, exec.Command("sh", append([]string{"-c", script, program(t, "activator")}, args...)...))
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("the activator's log:\n%s", tail(a.log.all(), 60))
		}
	})
	a.wait("activator ready")
	return a
}

// descriptorsOf is how many descriptors a process has.
func descriptorsOf(t *testing.T, pid int) int {
	t.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// Clients of one service that come and stay do not take the descriptors of the others:
// each of them is served, and a client that waits for the greedy one is served when others go.
func TestIdleClientsLeaveDescriptors(t *testing.T) {
	t.Parallel()
	const limit = 200
	for _, greedy := range []string{"proxy", "inetd"} {
		t.Run(greedy, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			service := func(name, socket, more string) string {
				configureIn(t, dir, name, fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%s.sock\"]\n%s\n[service]\nstart_timeout = \"5m\"\n%s\n", dir, name, socket, more))
				return dir + "/" + name + ".sock"
			}
			carried := "exec = [\"SELF\", \"tcp\", \"127.0.0.1:8000\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=carried\"]\nhandover = \"proxy\"\nlimits = { nofile = 200 }" // it ends when it has no more
			inetd := "exec = [\"/bin/cat\"]\naccept = true\nhandover = \"stdio\"\nmax_connections = 500"
			greedyAt := service("greedy-proxy", "target = \"tcp://127.0.0.1:8000\"", carried)
			if greedy == "inetd" {
				greedyAt = service("greedy-inetd", "", inetd)
			}
			proxyAt := service("modest-proxy", "target = \"tcp://127.0.0.1:8000\"", carried)
			inetdAt := service("modest-inetd", "", inetd)
			echoAt := service("modest-fds", "", "exec = [\"ECHO\"]")
			a := activateWithin(t, limit, "--config", dir)

			var clients []net.Conn
			for range 100 {
				c, err := net.Dial("unix", greedyAt)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, _ = c.Write([]byte("hello\n"))
				clients = append(clients, c)
			}
			a.wait("service=greedy-"+greedy, "nobody is accepted for now", "too many open files", "nofile")
			if n := descriptorsOf(t, a.cmd.Process.Pid); n > limit*9/10 {
				t.Errorf("%d of %d descriptors are used", n, limit)
			}
			for _, at := range []string{proxyAt, inetdAt, echoAt} {
				if c, err := net.Dial("unix", at); err != nil {
					t.Error(err)
				} else {
					hears(t, at, c)
					c.Close()
				}
			}
			for _, c := range clients { // in the order in which they came
				hears(t, greedyAt, c)
				c.Close()
			}
			nothingFailed(t, a)
		})
	}
}

// hears wants that the client is answered.
func hears(t *testing.T, at string, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	_, _ = c.Write([]byte("hello\n"))
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		t.Errorf("%s: a client hears %q, %v", at, line, err)
	}
}

// nothingFailed wants no error in the log, and no rest.
func nothingFailed(t *testing.T, a *activator) {
	t.Helper()
	for _, line := range a.log.all() {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, "state=resting") {
			t.Error(line)
		}
	}
}

// Clients of one relayed socket do not take the room of another's: those that stay, and those
// that are gone, whose flows end long before the two minutes of silence.
func TestDatagramClientsLeaveDescriptors(t *testing.T) {
	t.Parallel()
	const limit, flood = 400, 600
	dir := folder(t)
	at := ktest.Port(t)
	configureIn(t, dir, "greedy", fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/greedy.sock\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
	configureIn(t, dir, "modest", fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/modest.sock\", \"udp://127.0.0.1:%d\"]\n[service]\nexec = [\"ECHO\"]\n", dir, at))
	a := activateWithin(t, limit, "--config", dir)
	come := func(i int, to string) *net.UnixConn {
		c, err := net.DialUnix("unixgram", &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("%s/%s-%d", dir, to, i)}, &net.UnixAddr{Net: "unixgram", Name: dir + "/" + to + ".sock"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	hears(t, "greedy", come(flood, "greedy"))
	idle := descriptorsOf(t, a.cmd.Process.Pid)
	var clients []net.Conn
	for i := range flood {
		c := come(i, "greedy")
		_ = c.SetWriteDeadline(time.Now().Add(waitTimeout))
		if _, err := c.Write([]byte("hello\n")); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, c)
	}
	a.wait("table of flows is full", "greedy")
	for i := range 15 { // more than come with a socket, and all of them stay
		hears(t, "modest unixgram", come(i, "modest"))
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", at))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		hears(t, "modest udp", c)
	}
	if n := descriptorsOf(t, a.cmd.Process.Pid); n > limit*9/10 {
		t.Errorf("%d of %d descriptors are used", n, limit)
	}
	for _, c := range clients {
		c.Close()
	}
	falls(t, a.cmd.Process.Pid, idle)
}

// falls wants a process to give a quarter of its descriptors above idle back, in half of the
// time that a silent flow has.
func falls(t *testing.T, pid, idle int) {
	t.Helper()
	const soon = time.Minute
	deadline := time.Now().Add(soon)
	full := descriptorsOf(t, pid)
	for n := full; n > idle+(full-idle)*3/4; n = descriptorsOf(t, pid) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors after %v, %d before, and %d when nobody had come", n, soon, full, idle)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
