package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// However the activator dies, at whatever moment of a start, nothing of it is
// left that blocks the next start; also where the program rids itself of the
// parent-death signal.
func TestKilledAtAnyMoment(t *testing.T) {
	for _, program := range []string{`"ECHO"`, `"SELF", "rebel"`} {
		t.Run(program, func(t *testing.T) {
			const moments = 100
			dir := folder(t)
			listen, addrs := fiveSockets(ktest.Port(t), dir)
			text := "[[socket]]\n" + listen + "\n[service]\nexec = [%s]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=rebel\"]\n"
			conf := configureIn(t, dir, "killed", fmt.Sprintf(text, program))
			mounts := hostMounts(t)
			for range moments {
				killInStart(t, conf, dir+"/echo_stream_sock")
			}
			vanished(t, "killed")
			if now := hostMounts(t); !slices.Equal(mounts, now) {
				t.Errorf("mounts before\n%q\nand after\n%q", mounts, now)
			}
			// The next one starts over whatever paths are left, and removes them.
			a := activate(t, "--config", configureIn(t, dir, "killed", fmt.Sprintf(text, `"ECHO"`)))
			answered(t, "after 100 kills", addrs...)
			a.stop()
			if left, _ := os.ReadDir(dir); len(left) != 1 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// killInStart kills an activator at some moment of its service's start, or soon
// after.
func killInStart(t *testing.T, conf, socket string) {
	t.Helper()
	a := launch(t, "--config", conf)
	a.wait("activator ready")
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	// A start lasts about 5 ms, and a rebel's way to freedom 10 ms.
	time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
	if err := a.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-a.ended
	c.Close()
}

// vanished waits until nothing of the activators is left that were killed.
func vanished(t *testing.T, name string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := stagesAndServices(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of %s are still there: %v", name, left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// stagesAndServices lists guards, second stages and services of the programs under
// test, whose ever they are: the caller runs none.
func stagesAndServices(t *testing.T) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var programs []os.FileInfo
	for _, path := range []string{program(t, "activator"), program(t, "echo"), self} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, info)
	}
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		info, err := os.Stat(filepath.Join(dir, "exe"))
		if err != nil || filepath.Base(dir) == strconv.Itoa(os.Getpid()) {
			continue
		}
		if slices.ContainsFunc(programs, func(p os.FileInfo) bool { return os.SameFile(p, info) }) {
			line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			found = append(found, fmt.Sprintf("%s %q", filepath.Base(dir), line))
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

// A service dies with its activator, also one that is busy, and one that has rid
// itself of the parent-death signal.
func TestServiceDiesWithTheActivator(t *testing.T) {
	for _, mode := range []string{"deaf", "rebel"} {
		dir := folder(t)
		listen, _ := fiveSockets(ktest.Port(t), dir)
		text := fmt.Sprintf("[[socket]]\n%s\n[service]\nexec = [\"SELF\", \"rebel\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=%s\"]\n", listen, mode)
		a := launch(t, "--config", configureIn(t, dir, mode, text))
		a.wait("activator ready")
		c := dialFirst(t, listen)
		pid := pidOf(t, a, 1)
		if mode == "rebel" {
			a.wait("stream=stdout", "the parent-death signal is 0")
		}
		if err := a.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-a.ended
		gone(t, pid)
		c.Close()
	}
}
