package test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"activator/internal/ktest"
)

const podmanImage = "localhost/activator-echo-tested"

// imageMade is done once: to make an image anew takes its containers away.
var imageMade sync.Once

// inPodman starts an activator whose service is our echo in a container.
func inPodman(t *testing.T, name string) (a *activator, addrs []string, start func() *activator) {
	t.Helper()
	ktest.Filters(t)
	if _, err := exec.LookPath("podman"); err != nil {
		ktest.Skip(t, "%v", err)
	}
	imageMade.Do(func() { command(t, "", "./image.sh", podmanImage, program(t, "echo")) })
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	file := configureIn(t, dir, name, "[[socket]]\n"+listen+"\n[container]\nimage = \""+podmanImage+"\"\n")
	start = func() *activator {
		a := launch(t, "--config", file)
		a.wait("activator ready")
		return a
	}
	return activate(t, "--config", file), addrs, start
}

// The how-to's own system: the five lines from a container, which sees nothing
// but lo, again after it was killed, and gone without a trace when we stop.
func TestPodman(t *testing.T) {
	t.Parallel()
	a, addrs, _ := inPodman(t, "boxed")
	for i, addr := range addrs {
		answeredInTime(t, addr)
		if i == 0 {
			answered(t, "warm", addrs...)
			see(t, pidOf(t, a, 1))
		}
		killed(t, pidOf(t, a, i+1))
		a.waitN(i+2, "state=listening")
		noneLeft(t, "activator-boxed")
	}
	answered(t, "warm", addrs...)
	a.stop()
	noneLeft(t, "activator-boxed")
}

// A container that ends by itself, and one that is killed fifty times in a row,
// is followed by the next one: nobody is lost.
func TestPodmanAgainAndAgain(t *testing.T) {
	t.Parallel()
	a, _, _ := inPodman(t, "again") // makes the image, if nobody has
	a.stop()
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	socket := "[[socket]]\n" + listen + "\n[service]\n" + quick + "[container]\nimage = \"" + podmanImage + "\"\n"
	t.Run("exits", func(t *testing.T) {
		a := activate(t, "--config", configureIn(t, dir, "exits", socket+"command = [\"--exit-after\", \"1\"]\n"))
		for i, addr := range addrs {
			answeredInTime(t, addr)
			a.waitN(i+2, "state=listening")
		}
	})
	t.Run("crashes", func(t *testing.T) {
		a := activate(t, "--config", configureIn(t, dir, "crashes", socket))
		for i := range 50 {
			if err := ask("unix", dir+"/echo_stream_sock", i); err != nil {
				t.Fatal(err)
			}
			killed(t, pidOf(t, a, i+1))
			a.waitN(i+2, "state=listening")
		}
		answered(t, "after 50 crashes", addrs...)
		a.stop()
		noneLeft(t, "activator-crashes")
	})
}

// answeredInTime asks with more patience than socat's half a second. Podman takes
// a fifth of that by itself, and more when the machine is busy with something
// else: the client's patience is not what is tested.
func answeredInTime(t *testing.T, addr string) {
	t.Helper()
	kind, where, _ := strings.Cut(addr, ":")
	network := map[string]string{"tcp4": "tcp", "tcp6": "tcp", "udp4": "udp", "udp6": "udp", "unix": "unix"}[kind]
	if err := ask(network, where, 0); err != nil {
		t.Errorf("%s: %v", addr, err)
	}
}

// Killed with a container running, the activator leaves none and no monitor, and
// the next one starts as if nothing had been.
func TestPodmanWhenActivatorIsKilled(t *testing.T) {
	t.Parallel()
	a, addrs, start := inPodman(t, "orphan")
	a.stop()
	for range 3 {
		a := start()
		answeredInTime(t, addrs[0])
		killed(t, a.cmd.Process.Pid)
		<-a.ended
		noneLeft(t, "activator-orphan")
	}
	a = start()
	answered(t, "after the kills", addrs...)
	a.stop()
}

// see fails unless the echo below the process pid has lo and nothing else.
func see(t *testing.T, pid int) {
	t.Helper()
	echo := inside(pid)
	if echo == 0 {
		t.Fatalf("no echo below %d", pid)
	}
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(echo), "net/dev"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(strings.TrimSpace(lines[2]), "lo:") { // two lines of heading
		t.Errorf("the container sees\n%s", text)
	}
}

// inside finds the container's program among the descendants of pid.
func inside(pid int) int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		text, _ := os.ReadFile(path)
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		if len(fields) < 2 || string(fields[1]) != strconv.Itoa(pid) {
			continue
		}
		dir := filepath.Dir(path)
		child, _ := strconv.Atoi(filepath.Base(dir))
		if argv, _ := os.ReadFile(filepath.Join(dir, "cmdline")); string(argv) == "/echo\x00" {
			return child
		}
		if found := inside(child); found != 0 {
			return found
		}
	}
	return 0
}

// noneLeft waits until no process names the container: launcher, engine, monitor
// and runtime all do.
func noneLeft(t *testing.T, container string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		var left []string
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range paths {
			if argv, _ := os.ReadFile(path); bytes.Contains(argv, []byte("--name="+container)) || bytes.Contains(argv, []byte("-n\x00"+container)) {
				left = append(left, string(bytes.ReplaceAll(argv, []byte{0}, []byte{' '})))
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left behind: %q", left)
		}
	}
}
