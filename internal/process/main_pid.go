package process

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
)

// SetMain makes another process of the service its main one: innerPid is its
// number as the service itself sees it (MAINPID= of sd_notify(3)). Stop
// signals it from now on, and when it ends the whole service does.
func (p *Process) SetMain(innerPid int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped || p.mainFD != nil && innerPid == p.mainPID {
		return nil
	}
	if status, err := proc.ReadStatus(p.pid); err == nil && pidInside(status) == innerPid {
		return nil // it is the main one already
	}
	pid, err := p.findPid(innerPid)
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	if again, err := p.findPid(innerPid); err != nil || again != pid {
		_ = unix.Close(fd)
		return fmt.Errorf("main process %d: %w", innerPid, syscall.ESRCH)
	}
	if p.mainFD != nil {
		_ = p.mainFD.Close()
	}
	p.mainFD, p.mainPID = os.NewFile(uintptr(fd), "pidfd"), innerPid
	p.main.Add(1)
	go p.watchMain(p.mainFD)
	return nil
}

// watchMain ends the service with its main process. It ends when main is closed.
func (p *Process) watchMain(main *os.File) {
	defer p.main.Done()
	if awaitReadable(main) == nil {
		p.Kill()
	}
}

// findPid translates a pid of the service's namespace to ours: a descendant of the
// process whose last NSpid it is.
func (p *Process) findPid(innerPid int) (int, error) {
	for _, pid := range proc.ListPids() {
		status, err := proc.ReadStatus(pid)
		if err == nil && pidInside(status) == innerPid && p.isAncestor(status) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("main process %d is not of this service: %w", innerPid, syscall.ESRCH)
}

func (p *Process) isAncestor(status map[string]string) bool {
	for range 64 { // generations; a loop cannot be, but pids are reused while we look
		parent, err := strconv.Atoi(status["PPid"])
		if err != nil || parent <= 1 && parent != p.pid {
			return false
		}
		if parent == p.pid {
			return true
		}
		if status, err = proc.ReadStatus(parent); err != nil {
			return false
		}
	}
	return false
}

// pidInside is the pid in the innermost namespace, the last one of NSpid.
func pidInside(status map[string]string) int {
	fields := strings.Fields(status["NSpid"])
	if len(fields) == 0 {
		return 0
	}
	pid, _ := strconv.Atoi(fields[len(fields)-1])
	return pid
}
