package stand

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// waitTimeout bounds every wait for a process.
const waitTimeout = 30 * time.Second

// Process is a program that we started. What it prints goes to a file, so that
// no process wakes up for it while something is measured.
type Process struct {
	Name string
	Cmd  *exec.Cmd
	log  *os.File
	seen int64  // bytes of the log that were read
	rest []byte // of these, what was not looked at
	done chan struct{}
	once sync.Once
}

// Start starts a program as a user, with env added to ours.
func (w *World) Start(as *Person, env []string, argv ...string) (*Process, error) {
	if err := context.Cause(w.Ctx); err != nil {
		return nil, err
	}
	path, err := Find(argv[0])
	if err != nil {
		return nil, err
	}
	log, err := os.CreateTemp(w.Dir, filepath.Base(path)+".log.")
	if err != nil {
		return nil, err
	}
	p := &Process{Name: filepath.Base(path), log: log, done: make(chan struct{})}
	p.Cmd = exec.Command(path, argv[1:]...)
	p.Cmd.Stdout, p.Cmd.Stderr = log, log
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.Dir = "/"
	// A session each, as every daemon has: the scheduler shares the processors
	// between sessions first, sched(7) "The autogroup feature".
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if as != nil {
		p.Cmd.SysProcAttr.Credential = &syscall.Credential{Uid: as.UID, Gid: as.GID}
		p.Cmd.Env = append([]string{"HOME=" + as.Home, "USER=" + as.Name, "LOGNAME=" + as.Name,
			"XDG_RUNTIME_DIR=/run/user/" + strconv.Itoa(int(as.UID)), "PATH=" + os.Getenv("PATH")}, env...)
	}
	if err := p.Cmd.Start(); err != nil {
		log.Close()
		return nil, err
	}
	_ = os.Remove(log.Name()) // we hold it
	go func() {
		_ = p.Cmd.Wait()
		close(p.done)
	}()
	w.mu.Lock()
	w.processes = append(w.processes, p)
	w.mu.Unlock()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Next waits for the next line of the log that has all the words.
func (p *Process) Next(words ...string) (string, error) {
	deadline := time.Now().Add(waitTimeout)
	for pause := 200 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		ended := p.ended()
		if line, ok := p.scan(words); ok {
			return line, nil
		}
		if ended {
			return "", fmt.Errorf("%s ended without a line %q; its last: %s", p.Name, words, p.Tail())
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("%s printed no line %q in %v; its last: %s", p.Name, words, waitTimeout, p.Tail())
		}
		time.Sleep(pause)
	}
}

func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// scan looks through what is new in the log.
func (p *Process) scan(words []string) (string, bool) {
	p.read()
	for {
		line, rest, whole := bytes.Cut(p.rest, []byte{'\n'})
		if !whole {
			return "", false
		}
		p.rest = rest
		if all(string(line), words) {
			return string(line), true
		}
	}
}

func all(line string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(line, word) {
			return false
		}
	}
	return true
}

// Lines are those of the log, of those that Next has not passed, that have all the
// words. They are passed then.
func (p *Process) Lines(words ...string) []string {
	var lines []string
	for {
		line, ok := p.scan(words)
		if !ok {
			return lines
		}
		lines = append(lines, line)
	}
}

// Tail is the end of the log, two lines at most.
func (p *Process) Tail() string {
	const most = 240 // bytes
	info, err := p.log.Stat()
	if err != nil {
		return ""
	}
	text := make([]byte, min(info.Size(), most))
	_, _ = p.log.ReadAt(text, info.Size()-int64(len(text)))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-2):], " / ")
}

// Ended waits until the process has ended by itself.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		return nil
	case <-time.After(waitTimeout):
		p.Stop()
		return fmt.Errorf("%s did not end by itself", p.Name)
	}
}

// Stop ends the process: SIGTERM, and SIGKILL if that does not help. It may be
// called twice.
func (p *Process) Stop() {
	p.once.Do(func() {
		_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			_ = p.Cmd.Process.Kill()
			<-p.done
		}
		p.log.Close()
	})
}

// Children are the processes that pid started and that are there.
func Children(pid int) []int {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var found []int
	for _, f := range files {
		text, _ := os.ReadFile(f)
		for _, word := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				found = append(found, n)
			}
		}
	}
	return found
}

// Title is a process's argv[0].
func Title(pid int) string {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	title, _, _ := bytes.Cut(line, []byte{0})
	return string(title)
}

// PSS is a process's proportional set size in KiB, proc_pid_smaps(5).
func PSS(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			return strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 64)
		}
	}
	return 0, errors.New("no Pss in smaps_rollup")
}

// Switches are the context switches of all threads of a process so far.
func Switches(pid int) (int, error) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	sum, threads := 0, 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread is gone
		}
		threads++
		for line := range strings.Lines(string(text)) {
			if key, value, _ := strings.Cut(line, ":"); strings.HasSuffix(key, "ctxt_switches") {
				n, _ := strconv.Atoi(strings.TrimSpace(value))
				sum += n
			}
		}
	}
	if threads == 0 { // one that has just begun may have none of the switches
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	return sum, nil
}

// read takes what is new in the log. The file's own offset belongs to the
// writers, which share it: so we read from where we were.
func (p *Process) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := p.log.ReadAt(buffer, p.seen)
		p.seen += int64(n)
		p.rest = append(p.rest, buffer[:n]...)
		if err != nil || n == 0 {
			return
		}
	}
}
