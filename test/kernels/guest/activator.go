package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"activator/test/kernels/plan"
)

// waitTimeout bounds every wait for what has to happen: only a hang exceeds it.
const waitTimeout = 60 * time.Second

// built is the path of a program that the host built.
func built(name string) string { return filepath.Join(plan.Home, "bin", name) }

// activator is a running activator.
type activator struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu    sync.Mutex
	lines []string      // of its log
	more  chan struct{} // closed and made anew with every line
}

// startActivator starts it with a configuration and waits until it is ready. An
// error has its log.
func startActivator(config string) (*activator, error) {
	a := &activator{cmd: exec.Command(built("activator"), "--config", config), ended: make(chan struct{}), more: make(chan struct{})}
	log, err := a.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := a.cmd.Start(); err != nil {
		return nil, err
	}
	go a.read(log)
	if _, err := a.wait(1, "activator ready"); err != nil {
		return nil, errors.Join(err, a.stop())
	}
	return a, nil
}

func (a *activator) read(log io.Reader) {
	for s := bufio.NewScanner(log); s.Scan(); {
		a.mu.Lock()
		a.lines = append(a.lines, s.Text())
		close(a.more)
		a.more = make(chan struct{})
		a.mu.Unlock()
	}
	_ = a.cmd.Wait() // ProcessState says it
	close(a.ended)
}

// wait waits for the n-th line that has all the words.
func (a *activator) wait(n int, words ...string) (string, error) {
	limit := time.After(waitTimeout)
	for {
		a.mu.Lock()
		found, more := matchLines(a.lines, words), a.more
		a.mu.Unlock()
		if len(found) >= n {
			return found[n-1], nil
		}
		select {
		case <-more:
		case <-a.ended:
			return "", fmt.Errorf("the activator ended, no line %d with %q: %s", n, words, a.log())
		case <-limit:
			return "", fmt.Errorf("no line %d with %q: %s", n, words, a.log())
		}
	}
}

func matchLines(lines, words []string) (found []string) {
	for _, line := range lines {
		has := true
		for _, w := range words {
			has = has && strings.Contains(line, w)
		}
		if has {
			found = append(found, line)
		}
	}
	return found
}

func (a *activator) log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.lines[max(0, len(a.lines)-30):], "\n")
}

// pid is the pid of the n-th run.
func (a *activator) pid(n int) (int, error) {
	line, err := a.wait(n, "state=running")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(line, " pid=")
	text, _, _ := strings.Cut(rest, " ")
	return strconv.Atoi(text)
}

// stop ends it in order, which has to succeed. It may have ended by itself.
func (a *activator) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-a.ended:
	case <-time.After(waitTimeout):
		_ = a.cmd.Process.Kill()
		<-a.ended
		return fmt.Errorf("the activator does not stop: %s", a.log())
	}
	if !a.cmd.ProcessState.Success() {
		return fmt.Errorf("the activator: %v: %s", a.cmd.ProcessState, a.log())
	}
	return nil
}

// kill ends it the hard way.
func (a *activator) kill() {
	_ = a.cmd.Process.Kill()
	<-a.ended
}

// configure writes a configuration and returns its path.
func configure(name, text string) (string, error) {
	path := filepath.Join(os.Getenv("HOME"), name+".toml")
	return path, os.WriteFile(path, []byte(text), 0o644)
}
