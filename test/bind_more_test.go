package test

import (
	"context"
	"fmt"
	"net"
	"os"
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

// unbound answers over UDP and TCP, from threads that have bound the same address.
func TestBindUnbound(t *testing.T) {
	installed(t, "unbound")
	conf, err := filepath.Abs("../configs/unbound.conf")
	if err != nil {
		t.Fatal(err)
	}
	n := ktest.Port(t)
	activate(t, "--config", example(t, "unbound", "127.0.0.1:5300", fmt.Sprint("127.0.0.1:", n), `"unbound.conf:`, `"`+conf+":"))
	for _, network := range []string{"udp", "tcp"} {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, fmt.Sprint("127.0.0.1:", n))
		}}
		var clients sync.WaitGroup
		for range 20 {
			clients.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
				defer cancel()
				got, err := resolver.LookupHost(ctx, "www.example.test.")
				slices.Sort(got)
				if fmt.Sprint(got) != "[192.0.2.7 2001:db8::7]" || err != nil {
					t.Errorf("%s: %v: %v", network, got, err)
				}
			})
		}
		clients.Wait()
	}
}

// A program that binds something else is not up. The log says what it lacks and
// what there is instead, and the client is turned away in the end.
func TestBindMissing(t *testing.T) {
	dir := folder(t)
	n, m := ktest.Port(t), ktest.Port(t)
	a := activate(t, "--config", configureIn(t, dir, "other", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://:80\"\n"+
		"[[socket]]\nlisten = [\"tcp6://:%d\"]\ntarget = \"tcp6://:8000\"\n"+
		"[service]\nexec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=http\"]\nhandover = \"bind\"\nstart_timeout = \"1s\"\nhold = \"1s\"\n", n, m)))
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("level=ERROR", "service not started: it has not bound tcp://:80")
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("the client is not turned away: %v", err)
	}
	if a.log.count("state=running") != 0 {
		t.Error("it is said to run")
	}
}

// A target that changes changes the service, not the socket: a client that waits is served.
func TestBindReload(t *testing.T) {
	dir := folder(t)
	n := ktest.Port(t)
	text := func(target int) string {
		return fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\ntarget = \"tcp://:%d\"\n[service]\nexec = [\"SELF\"]\n"+
			"environment = [\"ACTIVATOR_TEST_SERVICE=http\"]\nhandover = \"bind\"\nhold = \"infinity\"\nstart_timeout = \"infinity\"\n", n, target)
	}
	conf := configureIn(t, dir, "web", text(1234))
	a := activate(t, "--config", conf)
	answered := make(chan error, 1)
	go func() {
		status, _, err := get(fmt.Sprintf("http://127.0.0.1:%d/", n))
		if err == nil && status != 200 {
			err = fmt.Errorf("status %d", status)
		}
		answered <- err
	}()
	a.wait("state=starting")
	self, _ := os.Executable()
	a.rewrite(conf, strings.ReplaceAll(text(8000), "SELF", self))
	if err := <-answered; err != nil {
		t.Error(err)
	}
	a.wait("state=running")
}

// A service that binds without end costs the others nothing to speak of.
func TestBindFlood(t *testing.T) {
	dir := folder(t)
	at := fmt.Sprint("127.0.0.1:", ktest.Port(t))
	configureIn(t, dir, "flood", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://%s\"]\n[service]\nexec = [\"SELF\"]\n"+
		"environment = [\"ACTIVATOR_TEST_SERVICE=bind flood\"]\nhandover = \"bind\"\nstart_timeout = \"infinity\"\n", at))
	configureIn(t, dir, "echo", "[[socket]]\nlisten = [\"unix://"+dir+"/echo\"]\n[service]\nexec = [\"ECHO\"]\nrestart_delay = \"0s\"\nrestart_max_delay = \"0s\"\n")
	a := activate(t, "--config", dir)
	runs := 0
	latency := func() time.Duration {
		t.Helper()
		var took []time.Duration
		for range 15 {
			start := time.Now()
			if err := ask("unix", dir+"/echo", runs); err != nil {
				t.Fatal(err)
			}
			took = append(took, time.Since(start))
			runs++
			pid, err := strconv.Atoi(field(a.waitN(runs, "service=echo", "state=running"), "pid"))
			if err != nil {
				t.Fatal(err)
			}
			killed(t, pid)
			a.waitN(runs+1, "service=echo", "state=listening")
		}
		slices.Sort(took)
		return took[len(took)/2]
	}
	cpu := processorTime(t, a.cmd.Process.Pid)
	before := latency()
	own := processorTime(t, a.cmd.Process.Pid) - cpu // of as many activations
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.wait("service=flood", "msg=flooding")
	cpu = processorTime(t, a.cmd.Process.Pid)
	start := time.Now()
	during := latency()
	busy := (processorTime(t, a.cmd.Process.Pid) - cpu - own).Seconds() / time.Since(start).Seconds()
	t.Logf("activation takes %v, during a flood %v; the flood uses %.0f %% of a processor", before, during, 100*busy)
	if busy > 0.8 {
		t.Errorf("a flood takes %.0f %% of a processor", 100*busy)
	}
	if during > 10*before+2*time.Second { // without the pace no other service is served
		t.Errorf("activation takes %v, during a flood %v", before, during)
	}
}

// processorTime is what a process has used, proc_pid_stat(5).
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// The handover goes with everything that [sandbox] opens.
func TestBindOpened(t *testing.T) {
	t.Parallel()
	for _, opened := range []string{`connect = "unix"`, `connect = "any"`, `seal = "off"`, "seal = \"off\"\nconnect = \"any\"", "seal = \"off\"\nconnect = \"unix\"",
		`network = "host"`, `syscalls = "any"`, "syscalls = \"any\"\nseal = \"off\"\nconnect = \"any\"", "init = true", "no_new_privileges = false"} {
		t.Run(opened, func(t *testing.T) {
			n := ktest.Port(t)
			a := activate(t, "--config", configureIn(t, folder(t), "web", fmt.Sprintf("[[socket]]\nlisten = [\"tcp://[::1]:%d\"]\ntarget = \"tcp://:8000\"\n[service]\n"+
				"exec = [\"SELF\"]\nenvironment = [\"ACTIVATOR_TEST_SERVICE=http\"]\nhandover = \"bind\"\nhold = \"20s\"\n[sandbox]\n%s\n", n, opened)))
			for range 3 {
				status, body, err := get(fmt.Sprintf("http://[::1]:%d/", n))
				if status != 200 || string(body) != "hello ::1 from no environment" || err != nil {
					t.Fatalf("status %d, %q: %v", status, body, err)
				}
			}
			killed(t, pidOf(t, a, 1))
			a.wait("state=resting")
			if status, _, err := get(fmt.Sprintf("http://[::1]:%d/", n)); status != 200 || err != nil {
				t.Errorf("after a crash: status %d: %v", status, err)
			}
		})
	}
}

// Node.js ends by the default action of a signal, and pid 1 has none: without init = true
// it takes stop_timeout, and the log says the cure; with it, or with a handler of the
// script's own, it ends at once.
func TestNodeEnds(t *testing.T) {
	installed(t, "node")
	for _, tt := range []struct {
		name    string
		changes []string
		lapses  bool
	}{
		{"as in the example", nil, false},
		{"as pid 1", []string{"init = true", `init = false`}, true},
		{"with a handler", []string{"init = true", `init = false`, `--eval", "`, `--eval", "process.on('SIGTERM', () => process.exit(0)); `}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := ktest.Port(t)
			a := activate(t, "--config", example(t, "node", append(tt.changes,
				"tcp://[::1]:3080", fmt.Sprintf("tcp://[::1]:%d", n), `handover = "bind"`, "handover = \"bind\"\nstop_timeout = \"2s\"")...))
			if status, _, err := get(fmt.Sprintf("http://[::1]:%d/", n)); status != 200 || err != nil {
				t.Fatalf("status %d: %v", status, err)
			}
			a.stop()
			if lapsed := a.log.count("its time is over", "init = true") == 1; lapsed != tt.lapses || a.log.count("its time is over") > 0 != tt.lapses {
				t.Errorf("told to say init = true: %v", lapsed)
			}
		})
	}
}

// A program that binds datagrams by IPv6 answers clients that come to an address of IPv4, which it sees as those of IPv6, after a
// reload that says so and after a crash. However UDP is sealed, it reaches nobody else by that.
func TestBindMapped(t *testing.T) {
	for name, tt := range map[string]struct{ lacks, listen, binds string }{
		"wildcard":         {"", "udp://127.0.0.1:%d", "::"},
		"address":          {"", "udp4://:%d", "::ffff:127.0.0.1"},
		"wildcard relayed": {kernelsBefore[0], "udp4://:%d", "::"},
		"address relayed":  {kernelsBefore[0], "udp://127.0.0.1:%d", "::ffff:127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.lacks != "" {
				ktest.OldKernel(t, program(t, "oldkernel"), tt.lacks)
			}
			t.Setenv("OLDKERNEL", tt.lacks)
			other, err := net.ListenPacket("udp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			n := ktest.Port(t)
			text := fmt.Sprintf("[[socket]]\nlisten = [%q]\ntarget = \"udp://:5000\"\n[service]\nhandover = \"bind\"\nexec = [\"python3\", \"-c\", %q]\n", fmt.Sprintf(tt.listen, n), fmt.Sprintf(`
from socket import *
s = socket(AF_INET6, SOCK_DGRAM)
s.bind((%q, 5000))
while True:
    data, client = s.recvfrom(100)
    try: s.sendto(b"out", ("::ffff:127.0.0.1", %d))
    except OSError: pass
    s.sendto(client[0].encode(), client)
`, tt.binds, other.LocalAddr().(*net.UDPAddr).Port))
			dir := folder(t)
			a := activate(t, "--config", configureIn(t, dir, "mapped", text))
			configureIn(t, dir, "mapped", strings.Replace(text, "udp://:5000", "udp6://:5000", 1))
			_ = a.cmd.Process.Signal(syscall.SIGHUP)
			a.wait("configuration reloaded")
			for run := range 2 {
				askMapped(t, fmt.Sprint("127.0.0.1:", n))
				killed(t, pidOf(t, a, run+1))
				a.waitN(run+1, "state=resting")
			}
			if n := a.log.count("level=WARN"); n != 3 { // the socket is bound anew, and two crashes
				t.Errorf("%d warnings", n)
			}
			hearsNothing(t, other)
		})
	}
}

// askMapped asks five times, in one flow and in others.
func askMapped(t *testing.T, address string) {
	t.Helper()
	for i := range 5 {
		c := dial(t, "udp", address)
		_ = c.SetDeadline(time.Now().Add(waitTimeout))
		for range 1 + i%2 {
			_, err := c.Write([]byte("?"))
			got := make([]byte, 64)
			n, e := c.Read(got)
			if err != nil || e != nil || string(got[:n]) != "::ffff:127.0.0.1" {
				t.Fatalf("it has a client from %q, %v, %v", got[:n], err, e)
			}
		}
	}
}

// hearsNothing sends c a datagram, which must be the first that comes.
func hearsNothing(t *testing.T, c net.PacketConn) {
	t.Helper()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	_, err := c.WriteTo([]byte("own"), c.LocalAddr())
	got := make([]byte, 64)
	n, _, e := c.ReadFrom(got)
	if err != nil || e != nil || string(got[:n]) != "own" {
		t.Errorf("%q came, %v, %v", got[:n], err, e)
	}
}
