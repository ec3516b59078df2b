package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

const podmanImage = "localhost/activator-echo-tested"

// imageMade is done once: to make an image anew takes its containers away.
var imageMade sync.Once

// ownName is the name of a service of this run: a container's name is taken once in all of a user's.
func ownName(name string) string { return fmt.Sprintf("activator-test-%s-%d", name, os.Getpid()) }

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
	a, addrs, _ := inPodman(t, ownName("boxed"))
	for i, addr := range addrs {
		answeredInTime(t, addr)
		if i == 0 {
			answered(t, "warm", addrs...)
			see(t, pidOf(t, a, 1))
		}
		killed(t, pidOf(t, a, i+1))
		a.waitN(i+2, "state=listening")
	}
	answered(t, "warm", addrs...)
	a.stop()
	noneLeft(t, ownName("boxed"))
}

// A container that ends by itself, and one that is killed fifteen times in a row,
// is followed by the next one: no client is lost.
func TestPodmanAgainAndAgain(t *testing.T) {
	t.Parallel()
	a, _, _ := inPodman(t, ownName("again")) // makes the image, if it is not there
	a.stop()
	dir := folder(t)
	listen, addrs := fiveSockets(ktest.Port(t), dir)
	socket := "[[socket]]\n" + listen + "\n[service]\n" + quick + "[container]\nimage = \"" + podmanImage + "\"\n"
	t.Run("exits", func(t *testing.T) {
		a := activate(t, "--config", configureIn(t, dir, ownName("exits"), socket+"command = [\"--exit-after\", \"1\"]\n"))
		for i, addr := range addrs {
			answeredInTime(t, addr)
			a.waitN(i+2, "state=listening")
		}
	})
	t.Run("crashes", func(t *testing.T) {
		a := activate(t, "--config", configureIn(t, dir, ownName("crashes"), socket))
		for i := range 15 {
			if err := ask("unix", dir+"/echo_stream_sock", i); err != nil {
				t.Fatal(err)
			}
			killed(t, pidOf(t, a, i+1))
			a.waitN(i+2, "state=listening")
		}
		answered(t, "after 15 crashes", addrs...)
		a.stop()
		noneLeft(t, ownName("crashes"))
	})
}

// answeredInTime asks with a longer timeout than socat's half a second. Podman takes
// a fifth of that by itself, and more when the machine is busy with something
// else: the client's timeout is not what is tested.
func answeredInTime(t *testing.T, addr string) {
	t.Helper()
	kind, where, _ := strings.Cut(addr, ":")
	network := map[string]string{"tcp4": "tcp", "tcp6": "tcp", "udp4": "udp", "udp6": "udp", "unix": "unix"}[kind]
	if err := ask(network, where, 0); err != nil {
		t.Errorf("%s: %v", addr, err)
	}
}

// Killed at any moment from a container's start on, the activator leaves no container that runs
// and no monitor, and the next one starts as if nothing had been: what is left in the user's
// store is replaced.
func TestPodmanWhenActivatorIsKilled(t *testing.T) {
	t.Parallel()
	a, addrs, start := inPodman(t, ownName("orphan"))
	a.stop()
	network, where, _ := strings.Cut(addrs[0], ":")
	network = strings.TrimSuffix(network, "4")
	for i := range 8 {
		a := start()
		client, err := net.Dial(network, where)
		if err != nil {
			t.Fatal(err)
		}
		a.wait("service starting")
		// Not an assertion about time: spread over a start and what comes after it.
		time.Sleep(time.Duration(i) * 60 * time.Millisecond)
		killed(t, a.cmd.Process.Pid)
		<-a.ended
		client.Close()
		noProcess(t, ownName("orphan"))
	}
	a = start()
	answeredInTime(t, addrs[0])
	answered(t, "after the kills", addrs...)
	a.stop()
	noneLeft(t, ownName("orphan"))
}

// Killed together with all that would clean up after it, it leaves the container running: the
// next one replaces it.
func TestPodmanLeftRunning(t *testing.T) {
	a, addrs, start := inPodman(t, ownName("left"))
	answeredInTime(t, addrs[0])
	echo := inside(pidOf(t, a, 1))
	if err := syscall.Kill(a.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for _, child := range append(childrenOf(a.cmd.Process.Pid), strconv.Itoa(a.cmd.Process.Pid)) {
		pid, err := strconv.Atoi(child)
		if err != nil {
			t.Fatal(err)
		}
		killed(t, pid)
	}
	<-a.ended
	if err := syscall.Kill(echo, 0); err != nil {
		t.Logf("the container has ended: %v", err)
	}
	a = start()
	answeredInTime(t, addrs[0])
	if pid := inside(pidOf(t, a, 1)); pid == echo {
		t.Errorf("answered by the one that was left, %d", pid)
	}
	answered(t, "after the kill", addrs...)
	a.stop()
	noneLeft(t, ownName("left"))
}

// To the user's own shell it is a container as any other: with and without the process that
// keeps a user's namespaces, and if podman makes a new one in those of a container. One that is stopped by hand is a service that has ended.
func TestPodmanFromTheShell(t *testing.T) {
	for _, name := range []string{"shell", "shell-first", "shell-again"} {
		t.Run(name, func(t *testing.T) {
			first, again := name == "shell-first", name == "shell-again"
			name := ownName(name)
			a, addrs, start := inPodman(t, name)
			a.stop()
			if first {
				forgetPause(t)
			}
			a = start()
			answeredInTime(t, addrs[0])
			if again {
				forgetPause(t)
			}
			said := command(t, "", "podman", "ps", "--filter=name=^"+name+"$", "--format={{.Names}} {{.Image}}")
			if want := name + " " + podmanImage + ":latest\n"; said != want {
				t.Errorf("podman ps says %q, want %q", said, want)
			}
			if said := command(t, "", "podman", "exec", name, "/echo", "--help"); !strings.HasPrefix(said, "Usage: echo") {
				t.Errorf("podman exec says %q", said)
			}
			command(t, "", "podman", "logs", name)
			command(t, "", "podman", "stop", name)
			a.waitN(2, "state=listening")
			answeredInTime(t, addrs[0])
			answered(t, "after podman stop", addrs...)
			a.stop()
			noneLeft(t, name)
		})
	}
}

// forgetPause ends the process that keeps the user's namespaces, if there is one.
func forgetPause(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("XDG_RUNTIME_DIR"), "libpod/tmp/pause.pid"))
	if os.Getuid() == 0 || err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	killed(t, pid)
}

// A container of that name that is not ours is refused and named, and stays.
func TestPodmanStranger(t *testing.T) {
	name := ownName("stranger")
	a, _, _ := inPodman(t, name)
	a.stop()
	id := strings.TrimSpace(command(t, "", "podman", "create", "--name="+name, "--network=none", podmanImage))
	t.Cleanup(func() { command(t, "", "podman", "rm", "--force", name) })
	dir := folder(t)
	file := configureIn(t, dir, name, "[[socket]]\nlisten = [\"unix://"+dir+"/s\"]\n[container]\nimage = \""+podmanImage+"\"\n")
	out, err := exec.Command(program(t, "activator"), "--config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "there is a container called "+name+" already, "+id[:12]) || !strings.Contains(string(out), "podman rm "+name) {
		t.Errorf("%v: %s", err, out)
	}
	if said := command(t, "", "podman", "inspect", "--format={{.Id}}", name); strings.TrimSpace(said) != id {
		t.Errorf("%q is there, want %q", said, id)
	}
}

// What it says of itself comes to us, from behind a seal that lets it connect to nothing.
func TestPodmanNotifies(t *testing.T) {
	a, _, _ := inPodman(t, ownName("notifies"))
	a.stop()
	dir := folder(t)
	file := configureIn(t, dir, ownName("notifies"), "[[socket]]\nlisten = [\"unix://"+dir+"/s\"]\n[service]\nnotify = true\n[container]\nimage = \""+podmanImage+"\"\ncommand = [\"--sdnotify\"]\n")
	a = activate(t, "--config", file)
	answeredInTime(t, "unix:"+dir+"/s")
	a.wait("state=running")
}

// What does not say that it is alive is ended, in a container too.
func TestPodmanWatchdog(t *testing.T) {
	a, _, _ := inPodman(t, ownName("watched"))
	a.stop()
	dir := folder(t)
	file := configureIn(t, dir, ownName("watched"), "[[socket]]\nlisten = [\"unix://"+dir+"/s\"]\n[service]\nnotify = true\nwatchdog = \"3s\"\n[container]\nimage = \""+podmanImage+"\"\ncommand = [\"--sdnotify\"]\n")
	a = activate(t, "--config", file)
	answeredInTime(t, "unix:"+dir+"/s")
	a.wait("service hangs")
	a.wait("state=resting")
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

// noneLeft waits until nothing of the container is left, and fails if the engine still lists it.
func noneLeft(t *testing.T, container string) {
	t.Helper()
	noProcess(t, container)
	var said string
	for try := range 10 { // it fails when another container goes meanwhile
		// No filter is for what the storage alone knows.
		out, err := exec.Command("podman", "ps", "--all", "--external", "--format={{.Names}}").Output()
		if said = string(out); err == nil {
			break
		}
		if try == 9 {
			t.Errorf("podman ps: %v", err)
		}
	}
	if slices.Contains(strings.Fields(said), container) {
		t.Errorf("left behind: %q", said)
	}
}

// noProcess waits until no process names the container: engine, monitor and runtime do.
func noProcess(t *testing.T, container string) {
	t.Helper()
	for deadline := time.Now().Add(waitTimeout); ; time.Sleep(5 * time.Millisecond) {
		var left []string
		paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range paths {
			if argv, _ := os.ReadFile(path); bytes.Contains(argv, []byte("--name="+container+"\x00")) || bytes.Contains(argv, []byte("-n\x00"+container+"\x00")) {
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
