package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// However the activator dies, at whatever moment of a start, nothing of it is
// left that blocks the next start; also where the program rids itself of the
// parent-death signal.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Setenv("ACTIVATOR_BIN", ownPrograms(t, "activator", "echo"))
	for _, program := range []string{`"ECHO"`, `"SELF", "rebel"`} {
		t.Run(program, func(t *testing.T) {
			const moments, atOnce = 100, 4
			dirs := make([]string, atOnce)
			ports := make([]int, atOnce)
			for i := range dirs {
				dirs[i], ports[i] = folder(t), ktest.Port(t)
			}
			checks := make(chan func(*testing.T), atOnce) // when nothing of them is left
			each := func(what string, test func(*testing.T, string, int)) {
				t.Run(what, func(t *testing.T) {
					for i, dir := range dirs {
						t.Run(strconv.Itoa(i), func(t *testing.T) {
							t.Parallel()
							test(t, dir, ports[i])
						})
					}
				})
			}
			each("kills", func(t *testing.T, dir string, port int) {
				conf, _ := killable(t, dir, port, program)
				host := ktest.MountAlone(t, dir)
				before := host.List(t)
				for range moments / atOnce {
					killInStart(t, conf, dir+"/echo_stream_sock")
				}
				checks <- func(t *testing.T) {
					if now := host.List(t); !slices.Equal(before, now) {
						t.Errorf("mounts before\n%q\nand after\n%q", before, now)
					}
					host.Close()
				}
			})
			vanished(t, "killed")
			for range len(checks) {
				(<-checks)(t)
			}
			each("after", func(t *testing.T, dir string, port int) {
				// The next one starts over whatever paths are left, and removes them.
				conf, addrs := killable(t, dir, port, `"ECHO"`)
				a := activate(t, "--config", conf)
				answered(t, "after the kills", addrs...)
				a.stop()
				if left, _ := os.ReadDir(dir); len(left) != 1 {
					t.Errorf("left behind: %v", left)
				}
			})
		})
	}
}

// killable configures a service of five sockets.
func killable(t *testing.T, dir string, port int, program string) (conf string, addrs []string) {
	t.Helper()
	listen, addrs := fiveSockets(port, dir)
	return configureIn(t, dir, "killed", fmt.Sprintf("[[socket]]\n%s\n[service]\nexec = [%s]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=rebel\"]\n", listen, program)), addrs
}

// ownPrograms copies built programs to a folder, so that other users of them have others.
func ownPrograms(t *testing.T, names ...string) (dir string) {
	t.Helper()
	dir = folder(t)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(program(t, name))
		if err != nil {
			t.Fatal(err)
		}
		// A child that is forked meanwhile would have it open for writing.
		syscall.ForkLock.RLock()
		err = os.WriteFile(filepath.Join(dir, name), text, 0o755)
		syscall.ForkLock.RUnlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
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
	deadline := time.Now().Add(waitTimeout)
	for {
		left := leftovers(t)
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes of %s are still there: %v", name, left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// leftovers lists guards, reapers and services of the programs under
// test: the caller runs none.
func leftovers(t *testing.T) []string {
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

// A service dies with its activator, also one that is busy, and one that has rid
// itself of the parent-death signal.
func TestServiceDiesWithTheActivator(t *testing.T) {
	t.Parallel()
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
