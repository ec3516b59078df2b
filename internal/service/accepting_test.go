package service_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/spec"
)

// who asks an instance what it sees.
func (c *caller) who() (s seen) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.ask("who")), &s); err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (s seen) env(name string) string {
	value := "none"
	for _, entry := range s.Env {
		if n, v, _ := strings.Cut(entry, "="); n == name {
			if value != "none" {
				return "twice"
			}
			value = v
		}
	}
	return value
}

func isSocket(target string) bool { return strings.HasPrefix(target, "socket:") }

func TestStdio(t *testing.T) {
	s := up(t, "serve", nil)
	c := s.call("tcp", s.dial)
	c.heard("hello")
	who := c.who()
	if f := who.Files; !isSocket(f["0"]) || f["1"] != f["0"] || !strings.HasPrefix(f["2"], "pipe:") || len(f) != 3 {
		t.Errorf("the instance has %v", f)
	}
	local := c.LocalAddr().(*net.TCPAddr)
	if who.env("REMOTE_ADDR") != "127.0.0.1" || who.env("REMOTE_PORT") != fmt.Sprint(local.Port) || who.env("LISTEN_FDS") != "none" {
		t.Errorf("the instance is told %q", who.Env)
	}
	s.await("stderr of an instance", "stream=stderr")
	c.Close()
	s.await("instance ended", "exit status 0")
}

func TestConnection(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) {
		service.Process.Handed, service.Process.FDNames = spec.LaterFD, []string{"connection"}
	})
	who := s.call("tcp", strings.Replace(s.dial, "127.0.0.1", "[::1]", 1)).who()
	if f := who.Files; f["0"] != "/dev/null" || !strings.HasPrefix(f["1"], "pipe:") || !isSocket(f["3"]) || len(f) != 4 {
		t.Errorf("the instance has %v", f)
	}
	for name, want := range map[string]string{"LISTEN_FDS": "1", "LISTEN_FDNAMES": "connection", "LISTEN_PID": "1", "REMOTE_ADDR": "::1"} {
		if got := who.env(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	// A unix client has an address only if it has bound one; what the service's
	// environment says stays.
	who = s.call("unix", s.path).who()
	if who.env("REMOTE_ADDR") != "nobody" || who.env("REMOTE_PORT") != "none" {
		t.Errorf("the instance of a unix client is told %q", who.Env)
	}
}

// With a reaper the program is its child.
func TestInit(t *testing.T) {
	for _, handed := range []spec.Handed{spec.LaterFD, spec.LaterStdio} {
		s := up(t, "serve", func(service *spec.Service) {
			service.Process.Sandbox.Init, service.Process.Handed = true, handed
			if handed == spec.LaterFD {
				service.Process.FDNames = []string{"connection"}
			}
		})
		c := s.call("tcp", s.dial)
		c.heard("hello")
		if who := c.who(); who.env("REMOTE_ADDR") != "127.0.0.1" {
			t.Errorf("the instance is told %q", who.Env)
		}
	}
}

// Who is one too many waits in the queue until somebody goes, however that is.
func TestMaxConns(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.MaxConns = 2 })
	first, second := s.call("tcp", s.dial), s.call("unix", s.path)
	first.heard("1")
	second.heard("2")
	for i, end := range []func(){
		func() { first.Close() },
		func() { second.ask("crash") },
	} {
		waits := s.call([]string{"unix", "tcp"}[i], []string{s.path, s.dial}[i])
		fmt.Fprintln(waits, "waits")
		if err := waits.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if text, err := waits.lines.ReadString('\n'); err == nil {
			t.Errorf("one too many is answered: %q", text)
		}
		_ = waits.SetReadDeadline(time.Now().Add(30 * time.Second))
		end()
		if text, err := waits.lines.ReadString('\n'); text != "heard waits\n" {
			t.Errorf("got %q, %v", text, err)
		}
	}
}

// One too many of a source is turned away at once; others are not.
func TestMaxSource(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.MaxSource = 1 })
	first := s.callFrom("127.0.0.1", "tcp", s.dial)
	first.heard("1")
	if got := s.callFrom("127.0.0.1", "tcp", s.dial).ask("2"); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") {
		t.Errorf("the second of a source got %q", got)
	}
	s.await("turned away", "source=127.0.0.1")
	s.callFrom("127.0.0.2", "tcp", s.dial).heard("3")
	s.call("unix", s.path).heard("4")
	if got := s.call("unix", s.path).ask("5"); !strings.Contains(got, "EOF") && !strings.Contains(got, "reset") && !strings.Contains(got, "pipe") {
		t.Errorf("the second of a user got %q", got)
	}
	if got := first.ask("crash"); got != "EOF" {
		t.Errorf("got %q", got)
	}
	s.await("instance ended", "exit status 7")
	s.callFrom("127.0.0.1", "tcp", s.dial).heard("6")
}

// An instance that fails rests nobody.
func TestFailureIsItsOwn(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.RestartDelay, service.RestartMaxDelay = time.Hour, time.Hour })
	other := s.call("tcp", s.dial)
	for range 5 {
		if got := s.call("tcp", s.dial).ask("crash"); got != "EOF" {
			t.Errorf("got %q", got)
		}
	}
	other.heard("still here")
	s.call("tcp", s.dial).heard("hello")
}

// A program that cannot be started costs no client who can wait until it can.
func TestClientOutlastsFailedStart(t *testing.T) {
	program := filepath.Join(t.TempDir(), "program")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(program, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	s := up(t, "serve", func(service *spec.Service) { service.Process.Argv[0] = program })
	c := s.call("tcp", s.dial)
	for range 3 {
		s.await("instance not started", "exec", "remote=127.0.0.1")
	}
	if err := os.Chmod(program, 0o755); err != nil {
		t.Fatal(err)
	}
	c.heard("hello")
}

// Nothing can be started: everybody is turned away after hold, from the queue too.
func TestHold(t *testing.T) {
	const hold = 300 * time.Millisecond
	for _, program := range []string{"/etc/passwd", "/missing/program"} {
		s := up(t, "serve", func(service *spec.Service) { service.Process.Argv, service.Hold = []string{program}, hold })
		begin := time.Now()
		var callers []*caller
		for range 3 {
			callers = append(callers, s.call("tcp", s.dial))
		}
		for _, c := range callers {
			if text, err := io.ReadAll(c); len(text) > 0 {
				t.Errorf("answer %q, %v", text, err)
			}
		}
		if waited := time.Since(begin); waited < hold-10*time.Millisecond {
			t.Errorf("turned away after %v, before their time", waited)
		}
		s.stop()
	}
}

// A sandbox that was killed while it waited costs its client nothing.
func TestWaitingSandboxIsKilled(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.RestartDelay, service.RestartMaxDelay = time.Hour, time.Hour })
	s.await("sandbox ready")
	s.call("tcp", s.dial).heard("1")
	_, field, _ := strings.Cut(s.await("sandbox ready"), "pid=")
	pid, err := strconv.Atoi(strings.TrimSpace(field))
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.call("tcp", s.dial).heard("2")
	s.await("sandbox was gone before its client came")
}

// At the end every instance is asked to go, and killed if it does not.
func TestStop(t *testing.T) {
	s := up(t, "serve", nil)
	var callers []*caller
	for i := range 3 {
		callers = append(callers, s.call("tcp", s.dial))
		callers[i].heard("hello")
	}
	s.stop()
	for _, c := range callers {
		if text, err := io.ReadAll(c.lines); string(text) != "told to end\n" {
			t.Errorf("got %q, %v", text, err)
		}
	}
	s.await("service ended")
}

func TestStopTimeout(t *testing.T) {
	s := up(t, "deaf", func(service *spec.Service) { service.StopTimeout = 50 * time.Millisecond })
	c := s.call("tcp", s.dial)
	c.heard("hello")
	s.stop()
	s.await("instance killed: its time is over")
	if text, err := io.ReadAll(c.lines); len(text) > 0 {
		t.Errorf("got %q, %v", text, err)
	}
}

// Many at once: each is served, whatever the pool has.
func TestMany(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.MaxConns = 5 })
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			c := s.call("tcp", s.dial)
			defer c.Close()
			c.heard(fmt.Sprint("hello ", i))
		})
	}
	all.Wait()
}

// The node of a socket comes back.
func TestNodeIsHealed(t *testing.T) {
	s := up(t, "serve", nil)
	s.call("unix", s.path).heard("1")
	if err := os.Remove(s.path); err != nil {
		t.Fatal(err)
	}
	s.await("node healed")
	s.call("unix", s.path).heard("2")
}

// Where all places are taken and somebody waits, the client gives way on whose connection nothing has moved for longest; not
// before, and not one that says something now and then. The kernel knows it of TCP only.
func TestSilentGiveWay(t *testing.T) {
	const limit = 2 * time.Second
	s := up(t, "serve", func(service *spec.Service) { service.MaxConns, service.SilentTimeout = 3, limit })
	local := s.call("unix", s.path)
	silent, busy := s.call("tcp", s.dial), s.call("tcp", strings.Replace(s.dial, "127.0.0.1", "[::1]", 1))
	for _, c := range []*caller{local, silent, busy} {
		c.heard("hello")
	}
	ended := make(chan string, 1)
	go func() {
		text, err := silent.lines.ReadString('\n')
		ended <- fmt.Sprint(text, err)
	}()
	beat := time.NewTicker(limit / 10)
	defer beat.Stop()
	for range 20 { // nobody waits
		busy.heard("still here")
		<-beat.C
	}
	if len(ended) > 0 {
		t.Fatalf("the silent one hears %q, though nobody waits", <-ended)
	}
	came := time.Now()
	waits := s.call("tcp", s.dial)
	fmt.Fprintln(waits, "waits")
	answer := make(chan string, 1)
	go func() {
		text, err := waits.lines.ReadString('\n')
		answer <- fmt.Sprint(text, err)
	}()
	for heard := false; !heard; {
		select {
		case text := <-answer:
			if heard = true; text != "heard waits\n<nil>" {
				t.Errorf("the one that waited hears %q", text)
			}
		case <-beat.C:
			busy.heard("still here")
		}
	}
	t.Logf("a place after %v", time.Since(came))
	if text := <-ended; text != "told to end\n<nil>" {
		t.Errorf("the silent one hears %q", text)
	}
	s.await("connections ended: all instances are taken", "source=127.0.0.1", "connections=1")
	busy.heard("still here")
	local.heard("still here")
}

// A word turns it off.
func TestSilentStay(t *testing.T) {
	s := up(t, "serve", func(service *spec.Service) { service.MaxConns = 1 })
	silent := s.call("tcp", s.dial)
	silent.heard("hello")
	waits := s.call("tcp", s.dial)
	if err := waits.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if text, err := waits.lines.ReadString('\n'); err == nil {
		t.Errorf("one too many hears %q", text)
	}
	silent.heard("hello")
}
