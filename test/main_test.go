// Package test holds the tests from end to end: the built programs, real
// clients, as the user that runs them.
package test

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

// waitTimeout bounds every wait. It is never what a test measures.
const waitTimeout = 5 * time.Minute

func TestMain(m *testing.M) {
	if mode := os.Getenv("ACTIVATOR_TEST_SERVICE"); mode != "" {
		serve(mode)
		return
	}
	ktest.Parallel(3)
	ktest.Main(m)
}

// program is the path of a built program: in $ACTIVATOR_BIN, or ../bin.
func program(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("ACTIVATOR_BIN")
	if dir == "" {
		dir = filepath.Join("..", "bin")
	}
	path, err := filepath.Abs(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: build it first: make", err)
	}
	return path
}

// activator is a running activator.
type activator struct {
	t      testing.TB
	cmd    *exec.Cmd
	log    *lines
	ended  chan struct{}
	status error
}

// activate starts the activator; the test's end stops it, and fails if it does
// not end with 0.
func activate(t testing.TB, args ...string) *activator {
	t.Helper()
	a := launch(t, args...)
	t.Cleanup(func() {
		a.stop()
		if t.Failed() {
			t.Logf("the activator's log:\n%s", tail(a.log.all(), 60))
		}
	})
	a.wait("activator ready")
	return a
}

func launch(t testing.TB, args ...string) *activator {
	t.Helper()
	if lacks := os.Getenv("OLDKERNEL"); lacks != "" { // as on an older kernel, see oldkernel
		return launchAs(t, exec.Command(program(t, "oldkernel"), append([]string{lacks, program(t, "activator")}, args...)...))
	}
	return launchAs(t, exec.Command(program(t, "activator"), args...))
}

// launchAs starts a command that becomes the activator.
func launchAs(t testing.TB, cmd *exec.Cmd) *activator {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a := &activator{t: t, cmd: cmd, log: newLines(), ended: make(chan struct{})}
	if a.cmd.Stderr = w; a.cmd.Stdout == nil {
		a.cmd.Stdout = w
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		a.log.read(r)
		r.Close()
		a.status = a.cmd.Wait()
		close(a.ended)
	}()
	return a
}

// stop ends the activator in order. It may be called twice.
func (a *activator) stop() {
	a.t.Helper()
	select {
	case <-a.ended:
	default:
		_ = a.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-a.ended:
	case <-time.After(waitTimeout):
		_ = a.cmd.Process.Kill()
		a.t.Errorf("the activator does not stop")
		<-a.ended
	}
	if a.status != nil && a.cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		a.t.Errorf("the activator ended with %v", a.status)
	}
}

// wait waits for a line with all the words.
func (a *activator) wait(words ...string) string {
	a.t.Helper()
	return a.waitN(1, words...)
}

// waitN waits for the n-th line with all the words and returns it.
func (a *activator) waitN(n int, words ...string) string {
	a.t.Helper()
	line, ok := a.log.wait(n, words...)
	if !ok {
		a.t.Fatalf("no line %d with %q in the log:\n%s", n, words, tail(a.log.all(), 60))
	}
	return line
}

// field is the value of key in a line of the log.
func field(line, key string) string {
	_, rest, _ := strings.Cut(line, " "+key+"=")
	value, _, _ := strings.Cut(rest, " ")
	return strings.TrimSpace(value)
}

// lines collects what a program prints.
type lines struct {
	mu    sync.Mutex
	text  []string
	more  chan struct{} // closed and made anew with every line
	ended bool
}

func newLines() *lines { return &lines{more: make(chan struct{})} }

func (l *lines) read(f *os.File) {
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l.add(s.Text(), false)
	}
	l.add("", true)
}

func (l *lines) add(line string, end bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end {
		l.ended = true
	} else {
		l.text = append(l.text, line)
	}
	close(l.more)
	l.more = make(chan struct{})
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text[:len(l.text):len(l.text)]
}

// last is the time of the last line that has all the words; zero: none has.
func (l *lines) last(words ...string) (at time.Time) {
	for _, line := range l.all() {
		if hasAll(line, words) {
			text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			at, _ = time.Parse(time.RFC3339Nano, text)
		}
	}
	return at
}

// count is how many lines have all the words.
func (l *lines) count(words ...string) int {
	n := 0
	for _, line := range l.all() {
		if hasAll(line, words) {
			n++
		}
	}
	return n
}

func hasAll(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}

func (l *lines) wait(n int, words ...string) (string, bool) {
	limit := time.After(waitTimeout)
	seen := 0
	for next := 0; ; {
		l.mu.Lock()
		text, more, ended := l.text, l.more, l.ended
		l.mu.Unlock()
		for ; next < len(text); next++ {
			if hasAll(text[next], words) {
				if seen++; seen == n {
					return text[next], true
				}
			}
		}
		if ended {
			return "", false
		}
		select {
		case <-more:
		case <-limit:
			return "", false
		}
	}
}

func tail(text []string, n int) string {
	return strings.Join(text[max(0, len(text)-n):], "\n")
}

// configureIn writes a configuration into a folder and returns its path. In text,
// ECHO stands for the echo program, SELF for this test's binary, which with the race detector
// would sleep a second at each exit.
func configureIn(t testing.TB, dir, name, text string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text = strings.NewReplacer("ECHO", program(t, "echo"), "SELF", self, `["ACTIVATOR_TEST_SERVICE=`, `["GORACE=atexit_sleep_ms=0", "ACTIVATOR_TEST_SERVICE=`).Replace(text)
	path := filepath.Join(dir, name+".toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// folder makes a folder with a short path, since a unix socket's may have 107
// bytes.
func folder(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "act")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// socat is what a user types: echo INPUT | socat - ADDR, but with a longer timeout than
// socat's own half a second after the input's end: the processors may be busy. A stream
// ends when it is answered; of datagrams it sees no end, and so one that is not answered
// in half a second is asked once more.
func socat(t testing.TB, addr, input string) string {
	t.Helper()
	if !strings.HasPrefix(addr, "udp") {
		return command(t, input, "socat", "-t", "300", "-", addr)
	}
	if got := command(t, input, "socat", "-", addr); got != "" {
		return got
	}
	return command(t, input, "socat", "-t", "20", "-", addr)
}

// command runs a program to its end and returns what it printed.
func command(t testing.TB, input string, argv ...string) string {
	t.Helper()
	path, err := exec.LookPath(argv[0])
	if err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v: %s", strings.Join(argv, " "), err, errs.String())
	}
	return out.String()
}

// gone waits until a process exists no more.
func gone(t testing.TB, pid int) {
	t.Helper()
	deadline := time.Now().Add(waitTimeout)
	for syscall.Kill(pid, 0) != syscall.ESRCH {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
		time.Sleep(time.Millisecond)
	}
}
