package spawn

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Stop sends sig to the process, or to the one SetMain named. A program that is pid 1
// of its namespace ignores every signal it has no handler for
// (pid_namespaces(7)), also one that would end any other process: such a program
// is killed at once, and killed says so.
func (p *Process) Stop(sig syscall.Signal) (killed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reaped:
		return false, nil
	case !p.running || sig == syscall.SIGKILL:
		return true, p.signal(syscall.SIGKILL)
	case p.mainFD != nil:
		return false, p.signalMain(sig)
	case p.pidOne && ends(sig) && !heard(p.pid, sig):
		return true, p.signal(syscall.SIGKILL)
	}
	return false, p.signal(sig)
}

// Kill ends the process and everything in its pid namespace.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = p.signal(syscall.SIGKILL)
	}
}

// signal is called with mu held and before the process is reaped, so that the
// number cannot be somebody else's.
func (p *Process) signal(sig syscall.Signal) error {
	if p.group && sig == syscall.SIGKILL {
		_ = unix.Kill(-p.pid, sig)
	}
	err := unix.Kill(p.pid, sig)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return os.NewSyscallError("kill", err)
}

// ends reports whether the default action of sig is to end the process,
// signal(7).
func ends(sig syscall.Signal) bool {
	switch sig {
	case syscall.SIGCHLD, syscall.SIGCONT, syscall.SIGURG, syscall.SIGWINCH,
		syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
		return false
	}
	return true
}

// heard reports whether sig means anything to pid: it is caught, ignored on
// purpose, or blocked, to be read from a signalfd(2). Unreadable is heard.
func heard(pid int, sig syscall.Signal) bool {
	status, err := readStatus(pid)
	if err != nil {
		return true
	}
	for _, field := range []string{"SigCgt", "SigIgn", "SigBlk"} {
		mask, err := strconv.ParseUint(status[field], 16, 64)
		if err != nil || mask&(1<<(uint(sig)-1)) != 0 {
			return true
		}
	}
	return false
}

// readStatus returns the fields of /proc/PID/status, proc_pid_status(5).
func readStatus(pid int) (map[string]string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	status := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		status[name] = strings.TrimSpace(value)
	}
	return status, lines.Err()
}
