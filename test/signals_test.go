package test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// GNU timeout signals its child, and then its group, which the child is in: that is
// one request to end, and the service's client gets its answer before it ends.
func TestTimeoutEndsInOrder(t *testing.T) {
	timeout, err := exec.LookPath("timeout")
	if err != nil {
		t.Skip(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", ktest.Port(t))
	config := configureIn(t, folder(t), "echo", "[[socket]]\nlisten = [\"tcp://"+addr+"\"]\n[service]\nexec = [\"ECHO\", \"--drain\", \"60\"]\n")
	cmd := exec.Command(timeout, "--preserve-status", "1", program(t, "activator"), "--config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it would signal this test too
	a := launchAs(t, cmd)
	a.wait("activator ready")
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answersStill(t, c)
	a.wait("activator stopping")
	answersStill(t, c) // it waits for the client
	c.Close()
	select {
	case <-a.ended:
	case <-time.After(waitTimeout):
		t.Fatal("it does not end")
	}
	if a.status != nil || a.log.count("a second signal") > 0 || a.log.count("activator stopped") == 0 {
		t.Errorf("ended with %v:\n%s", a.status, tail(a.log.all(), 20))
	}
}

// answersStill has a connected client served once more.
func answersStill(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := c.Read(got); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

// A terminal signals every process of its foreground group, and a user presses the key
// twice. What the activator has beside it hears of none of that: not the sandbox that
// stands, nor the guard; and the relay has clients after it.
func TestSignalsToTheGroup(t *testing.T) {
	dir := folder(t)
	config := configureIn(t, dir, "echo", fmt.Sprintf("[[socket]]\nlisten = [\"unixgram://%s/s\"]\n[service]\nexec = [\"ECHO\"]\n", dir))
	cmd := exec.Command(program(t, "activator"), "--log-level", "debug", "--config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	a := launchAs(t, cmd)
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-a.ended })
	stood := field(a.wait("state=warm "), "pid")
	guard := guardOf(t, cmd.Process.Pid)
	group := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(-cmd.Process.Pid, s); err != nil {
			t.Fatal(err)
		}
	}
	group(syscall.SIGHUP)
	a.wait("configuration reloaded")
	// More clients than the relay has flow sockets for: more are made.
	for i := range 20 {
		c, err := net.DialUnix("unixgram", &net.UnixAddr{Net: "unixgram", Name: fmt.Sprintf("@activator-%d-%d", os.Getpid(), i)},
			&net.UnixAddr{Net: "unixgram", Name: dir + "/s"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		answersStill(t, c)
	}
	if a.log.count("relay held up") > 0 {
		t.Error("the relay was held up")
	}
	if now := guardOf(t, cmd.Process.Pid); now != guard {
		t.Errorf("the guard was %d and is %d", guard, now)
	}
	if ran := field(a.wait("state=running"), "pid"); ran != stood {
		t.Errorf("process %s ran, and %s stood", ran, stood)
	}
	group(syscall.SIGINT)
	group(syscall.SIGTERM)
	group(syscall.SIGHUP)
	group(syscall.SIGINT)
	select {
	case <-a.ended:
	case <-time.After(waitTimeout):
		t.Fatal("it does not end")
	}
	if a.status != nil || a.log.count("a second signal") > 0 || a.log.count("activator stopped") == 0 {
		t.Errorf("ended with %v:\n%s", a.status, tail(a.log.all(), 20))
	}
}
