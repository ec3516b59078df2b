package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// awaitEnd waits until the activator has ended.
func (a *activator) awaitEnd() {
	a.t.Helper()
	select {
	case <-a.ended:
	case <-time.After(waitTimeout):
		a.t.Fatalf("it does not end:\n%s", tail(a.log.all(), 20))
	}
}

// A configuration comes by a pipe whose writer ends. A reload cannot read it again, nor a FIFO that has taken the place of a
// file; neither holds up the end.
func TestConfigurationFromAPipe(t *testing.T) {
	dir := folder(t)
	text := fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [%q]\n", dir, program(t, "echo"))
	cmd := exec.Command(program(t, "activator"), "--config", "/dev/stdin", "--config", configureIn(t, dir, "b", strings.Replace(text, "/s", "/b", 1)))
	cmd.Stdin = strings.NewReader(text)
	a := launchAs(t, cmd)
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-a.ended })
	a.wait("activator ready", "services=2")
	answered(t, "from a pipe", "unix:"+dir+"/s")

	if err := os.Remove(dir + "/b.toml"); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(dir+"/b.toml", 0o600); err != nil {
		t.Fatal(err)
	}
	silent, err := os.OpenFile(dir+"/b.toml", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"/dev/stdin", dir + "/b.toml"} {
		a.wait("configuration error", "file="+file, "is a pipe, which cannot be read again")
	}
	a.wait("not reloaded: everything stays as it is", "errors=2")
	answered(t, "after the reload", "unix:"+dir+"/s", "unix:"+dir+"/b")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if a.awaitEnd(); a.status != nil {
		t.Errorf("ended with %v:\n%s", a.status, tail(a.log.all(), 20))
	}
}

// At the start SIGTERM does not wait for a writer that says nothing more.
func TestEndBeforeTheConfiguration(t *testing.T) {
	read, silent, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cmd := exec.Command(program(t, "activator"), "--config", "/dev/stdin")
	cmd.Stdin = read
	a := launchAs(t, cmd)
	read.Close()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-a.ended })
	// More than a pipe holds: when it is written, the activator reads.
	if _, err := silent.WriteString(strings.Repeat("#\n", 1<<17)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.awaitEnd()
	if said := a.log.all(); !strings.Contains(strings.Join(said, "\n"), "activator: ended before the configuration was read") {
		t.Errorf("ended with %v:\n%s", a.status, said)
	}
}
