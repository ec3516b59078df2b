// Package security answers the 81 questions of `systemd-analyze security` for the
// default sandbox. A service looks at itself, the test looks at it from outside,
// and a directive of systemd.exec(5) counts only where its effect was seen:
//
//	make && go test ./test/security           # measures, and compares with docs/security.md
//	make && go test ./test/security -write   # writes the table there anew
package security

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	switch os.Getenv(modeVariable) {
	case "nothing":
		return
	case "service", "bare", "filtered":
		serve()
	}
	ktest.Main(m)
}

// activator is a running activator.
type activator struct {
	t     *testing.T
	lines chan string // closed at its end
	log   []string
}

// launch starts the activator; the test's end stops it.
func launch(t *testing.T, argv ...string) *activator {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		t.Fatal(err)
	}
	a := &activator{t: t, lines: make(chan string, 1000)}
	go func() {
		defer close(a.lines)
		defer r.Close()
		for s := bufio.NewScanner(r); s.Scan(); {
			a.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		for line := range a.lines {
			a.log = append(a.log, line)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the activator ended with %v", err)
		}
		if t.Failed() {
			t.Logf("the activator's log:\n%s", strings.Join(a.log, "\n"))
		}
	})
	return a
}

// wait waits for a line with the words.
func (a *activator) wait(words string) string {
	a.t.Helper()
	limit := time.After(waitTimeout)
	for {
		select {
		case line, ok := <-a.lines:
			if !ok {
				a.t.Fatalf("the activator has ended without %q", words)
			}
			a.log = append(a.log, line)
			if strings.Contains(line, words) {
				return line
			}
		case <-limit:
			a.t.Fatalf("no line with %q in the log", words)
		}
	}
}
