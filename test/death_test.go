package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// However the activator dies, at whatever moment of a start, nothing of it is
// left that blocks the next start.
func TestKilledAtAnyMoment(t *testing.T) {
	const moments = 100
	dir := folder(t)
	listen, addrs := fiveSockets(port(t), dir)
	conf := configureIn(t, dir, "killed", "[[socket]]\n"+listen+"\n[service]\nexec = [\"ECHO\"]\n")
	mounts := hostMounts(t)
	for range moments {
		a := launch(t, "--config", conf)
		a.wait("activator ready")
		c, err := net.Dial("unix", dir+"/echo_stream_sock")
		if err != nil {
			t.Fatal(err)
		}
		// A start lasts about 5 ms.
		time.Sleep(time.Duration(rand.IntN(8000)) * time.Microsecond)
		if err := a.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-a.ended
		c.Close()
	}
	vanished(t, "killed")
	if now := hostMounts(t); !slices.Equal(mounts, now) {
		t.Errorf("mounts before\n%q\nand after\n%q", mounts, now)
	}
	// The next one starts over whatever paths are left, and removes them.
	a := activate(t, "--config", conf)
	answered(t, "after 100 kills", addrs...)
	a.stop()
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

// vanished waits until no process is left whose host name is name: every stage
// and every service has that of its own uts namespace.
func vanished(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := stagesAndEchoes()
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of %s are still there: %v", name, left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stagesAndEchoes lists second stages and echo services whose parent is gone or
// an activator that is not ours to count: the caller runs none.
func stagesAndEchoes() []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue
		}
		argv0, _, _ := strings.Cut(string(line), "\x00")
		if argv0 == "activator-stage" || filepath.Base(argv0) == "echo" && strings.Contains(argv0, "/bin/") {
			found = append(found, fmt.Sprint(filepath.Base(dir), " ", argv0))
		}
	}
	return found
}

// hostMounts lists where things are mounted in our own mount namespace.
func hostMounts(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, fields[4])
		}
	}
	slices.Sort(points)
	return points
}

// A service dies with its activator, also one that is busy.
func TestServiceDiesWithTheActivator(t *testing.T) {
	dir := folder(t)
	listen, _ := fiveSockets(port(t), dir)
	a := launch(t, "--config", configureIn(t, dir, "deaf", "[[socket]]\n"+listen+"\n[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=deaf\"]\n"))
	a.wait("activator ready")
	c := dialFirst(t, listen)
	pid := pidOf(t, a, 1)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-a.ended
	gone(t, pid)
	c.Close()
}
