package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"activator/internal/ktest"
)

// fiveSockets is the how-to's set, at a port and in a folder of our own.
func fiveSockets(port int, dir string) (listen string, addrs []string) {
	listen = fmt.Sprintf(`listen = ["tcp://127.0.0.1:%[1]d", "udp://127.0.0.1:%[1]d", "tcp://[::1]:%[1]d", "udp://[::1]:%[1]d", "unix://%[2]s/echo_stream_sock"]`, port, dir)
	return listen, []string{
		fmt.Sprintf("tcp4:127.0.0.1:%d", port),
		fmt.Sprintf("tcp6:[::1]:%d", port),
		fmt.Sprintf("udp4:127.0.0.1:%d", port),
		fmt.Sprintf("udp6:[::1]:%d", port),
		fmt.Sprintf("unix:%s/echo_stream_sock", dir),
	}
}

// answered types the line at every address and fails unless each prints hello.
func answered(t *testing.T, when string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		if got := socat(t, addr, "hello\n"); got != "hello\n" {
			t.Errorf("%s: echo hello | socat - %s printed %q", when, addr, got)
		}
	}
}

func TestFiveLines(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	a := activate(t, "--config", configureIn(t, dir, "echo", "[[socket]]\n"+listen+"\n[service]\nexec = [\"ECHO\"]\n"))
	// Cold: each line wakes the service anew.
	starts := 0
	for _, addr := range addrs {
		answered(t, "cold", addr)
		starts++
		pid := pidOf(t, a, starts)
		killed(t, pid)
		a.waitN(starts+1, "state=listening")
	}
	// Warm: the same process answers all of them.
	answered(t, "warm", addrs...)
	pidOf(t, a, starts+1)
	answered(t, "warm again", addrs...)
	if n := a.log.count("state=running"); n != starts+1 {
		t.Errorf("%d starts, want %d", n, starts+1)
	}
	a.stop()
	if _, err := os.Lstat(filepath.Join(dir, "echo_stream_sock")); !os.IsNotExist(err) {
		t.Errorf("the socket's node is left behind: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 { // echo.toml
		t.Errorf("left behind: %v", left)
	}
}

// pidOf is the pid of the n-th run.
func pidOf(t *testing.T, a *activator, n int) int {
	t.Helper()
	pid, err := strconv.Atoi(field(a.waitN(n, "state=running"), "pid"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// killed kills a service's process.
func killed(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

func TestFiveLinesAfterFiftyCrashes(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	a := activate(t, "--config", configureIn(t, dir, "echo",
		"[[socket]]\n"+listen+"\n[service]\nexec = [\"ECHO\"]\nrestart_delay = \"1ms\"\nrestart_max_delay = \"2ms\"\n"))
	for i := range 50 {
		answered(t, fmt.Sprintf("crash %d", i), addrs[i%len(addrs)])
		killed(t, pidOf(t, a, i+1))
		a.waitN(i+2, "state=listening")
	}
	answered(t, "after 50 crashes", addrs...)
	if n := a.log.count("state=resting"); n != 50 {
		t.Errorf("%d rests, want 50", n)
	}
}

func TestSecondActivationAfterExit(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	a := activate(t, "--config", configureIn(t, dir, "echo",
		"[[socket]]\n"+listen+"\n[service]\nexec = [\"ECHO\", \"--exit-after\", \"1\"]\n"))
	for i, addr := range addrs {
		answered(t, "a new process each time", addr)
		a.waitN(i+2, "state=listening")
	}
	if n := a.log.count("state=running"); n != len(addrs) {
		t.Errorf("%d starts, want %d", n, len(addrs))
	}
}
