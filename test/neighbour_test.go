package test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// A service that floods its output, one that crashes and one that cannot start
// cost their neighbour nothing: it answers, and its lines are in the log.
func TestBadNeighbours(t *testing.T) {
	dir := folder(t)
	bad := func(name, mode string) {
		configureIn(t, dir, name, fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/%s.sock\"]\n[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=%s\"]\n", dir, name, mode))
	}
	bad("flood", "flood")
	bad("crash", "crash")
	configureIn(t, dir, "missing", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/missing.sock\"]\n[service]\nexec = [\"%s/program\"]\n", dir, dir))
	// It is there at the start: what is missing then is refused.
	if err := os.WriteFile(dir+"/program", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	configureIn(t, dir, "good", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/good.sock\"]\n[service]\nexec = [\"ECHO\", \"--debug\"]\n", dir))
	a := activate(t, "--config", dir)
	if err := os.Remove(dir + "/program"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flood", "crash", "missing"} {
		c, err := net.Dial("unix", dir+"/"+name+".sock")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	a.wait("service=flood", "stream=stdout", "flood flood")
	a.wait("service=crash", "state=resting")
	a.wait("service=missing", dir+"/program", "no such file or directory")
	for range 5 {
		answered(t, "beside bad neighbours", "unix:"+dir+"/good.sock")
	}
	a.wait("service=good", "state=running")
	a.wait("service=good", "stream=stderr")
}

// A service that breaks its sockets ends only itself: the next client finds them
// whole. No busy loop: the number of starts is the number of clients.
func TestBrokenSocketsAreMended(t *testing.T) {
	dir := folder(t)
	listen, _ := fiveSockets(ktest.Port(t), dir)
	a := activate(t, "--config", configureIn(t, dir, "break",
		"[[socket]]\n"+listen+"\n[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=break\"]\n"))
	for i := range 3 {
		c := dialFirst(t, listen)
		a.waitN(i+2, "state=listening")
		c.Close()
	}
	if n := a.log.count("state=starting"); n != 3 {
		t.Errorf("%d starts for 3 clients", n)
	}
	if n := a.log.count("socket mended"); n < 3 {
		t.Errorf("%d lines tell of mended sockets", n)
	}
}

// What keeps an activator from starting is one clear sentence, and leaves nothing
// open or behind.
func TestRefusalsToStart(t *testing.T) {
	dir := folder(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := os.WriteFile(dir+"/file", []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	live, err := net.Listen("unix", dir+"/live")
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	for _, tc := range []struct {
		name, listen string
		code         int
		says         []string
	}{
		{"taken", "tcp://" + taken.Addr().String(), 1, []string{"address already in use", fmt.Sprint(os.Getpid())}},
		{"file", "unix://" + dir + "/file", 2, []string{dir + "/file", "regular file"}},
		{"live", "unix://" + dir + "/live", 1, []string{dir + "/live"}},
		{"syntax", "tcp://::1:80", 2, []string{"syntax.toml:2:", "^"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first := "unix://" + dir + "/first"
			a := launch(t, "--config", configureIn(t, dir, tc.name, fmt.Sprintf("[[socket]]\nlisten = [%q, %q]\n[service]\nexec = [\"ECHO\"]\n", first, tc.listen)))
			<-a.ended
			said := strings.Join(a.log.all(), "\n")
			if code := a.cmd.ProcessState.ExitCode(); code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			for _, word := range tc.says {
				if !strings.Contains(said, word) {
					t.Errorf("%q is missing in: %s", word, said)
				}
			}
			if _, err := os.Lstat(dir + "/first"); !os.IsNotExist(err) {
				t.Errorf("half a set was opened and left: %v", err)
			}
		})
	}
	if text, err := os.ReadFile(dir + "/file"); err != nil || string(text) != "precious" {
		t.Errorf("the file: %q, %v", text, err)
	}
	if c, err := net.Dial("unix", dir+"/live"); err != nil {
		t.Errorf("the live server's path: %v", err)
	} else {
		c.Close()
	}
}

// The first signal ends everything in order, one that comes a second later at once.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	dir := folder(t)
	a := launch(t, "--config", configureIn(t, dir, "slow", fmt.Sprintf(
		"[[socket]]\nlisten = [\"unix://%s/s\"]\n[service]\nexec = [\"ECHO\", \"--drain\", \"1h\"]\nstop_timeout = \"infinity\"\n", dir)))
	a.wait("activator ready")
	c, err := net.Dial("unix", dir+"/s") // open, so that echo drains
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pid := pidOf(t, a, 1)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	first := time.Now()
	for _, line := range []string{"state=ending", ""} { // the second belongs to the first
		if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if line != "" {
			a.wait(line)
		}
	}
	if time.Since(first) < time.Second { // else the machine was slower than the user
		answersStill(t, c)
		time.Sleep(1100 * time.Millisecond) // nothing tells that a second is over but time
		if err := a.cmd.Process.Signal(syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	<-a.ended
	if code := a.cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	gone(t, pid)
}
