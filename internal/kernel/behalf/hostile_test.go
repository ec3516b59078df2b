package behalf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// hung is longer than anything takes that does not hang.
const hung = 30 * time.Second

// inTime fails the test if f does not return.
func inTime(t *testing.T, what string, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(hung):
		for _, pid := range childrenOf(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		t.Fatalf("%s: still waiting after %v", what, hung)
		return nil
	}
}

// stopAll is a program that stops every process of its pid namespace, over and over.
func stopAll() {
	fmt.Println("<nil>")
	for {
		_ = unix.Kill(-1, unix.SIGSTOP)
	}
}

// A process of the place that stops all that it may signal holds up nobody: as root it may not, and
// otherwise what was stopped is given up.
func TestStopped(t *testing.T) {
	if before := callTimeout; os.Geteuid() != 0 {
		callTimeout = 100 * time.Millisecond
		defer func() { callTimeout = before }()
	}
	dir := folder(t)
	o := start(t, apart)
	o.listen(dir + "/s")
	o.listen("stop")
	p, fd := place(t, o), connected(t, dir+"/s")
	given := 0
	for range 100 {
		err := inTime(t, "HasListener", func() error {
			there, err := p.HasListener(fd)
			if err == nil && !there {
				t.Error("the listener is not found")
			}
			return err
		})
		if errors.Is(err, errUnfinished) && os.Geteuid() != 0 {
			given++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("given up %d times", given)
}

// full is a listener that takes nobody more.
func full(t *testing.T, path string) {
	t.Helper()
	listener, err := listenAt(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(listener) })
	if err := errors.Join(unix.Listen(listener, 0), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	connected(t, path)
}

// waiting starts a program that connects to path on behalf of o, which takes for ever, and returns the
// processes that it has for that.
func waiting(t *testing.T, o *other, path string) (cmd *exec.Cmd, pids []int) {
	t.Helper()
	cmd = exec.Command("/proc/self/exe", "connect", strconv.Itoa(o.cmd.Process.Pid), path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for in := bufio.NewScanner(out); in.Scan(); {
		number, _ := strconv.Atoi(in.Text())
		pids = append(pids, number)
	}
	if len(pids) == 0 {
		t.Fatal("nothing waits")
	}
	return cmd, pids
}

// connect is the program of waiting. It says which processes wait, in the call, and ends when it is over.
func connect() {
	pid, _ := strconv.Atoi(os.Args[2])
	p, err := OpenPlace(pid)
	if err == nil {
		err = p.OpenRoot(pid)
	}
	fd, _ := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		for {
			pids := childrenOf(os.Getpid())
			for _, pid := range pids {
				pids = append(pids, childrenOf(pid)...)
			}
			for _, pid := range pids {
				// It sleeps in no other call.
				if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(text), ") S ") {
					for _, pid := range pids {
						fmt.Println(pid)
					}
					_ = os.Stdout.Close()
					return
				}
			}
		}
	}()
	_ = p.Connect(fd, sockaddr(os.Args[3]))
	os.Exit(0)
}

// childrenOf are those of all threads of a process, proc_pid_task_children(5).
func childrenOf(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(text)) {
			number, _ := strconv.Atoi(field)
			pids = append(pids, number)
		}
	}
	return pids
}

// The user of a service stops, from outside of it, what we have sent there. It does not outlive the service,
// and the service's end does not wait for it.
func TestStoppedFromOutside(t *testing.T) {
	dir := folder(t)
	o := start(t, apart|unix.CLONE_NEWNS)
	full(t, dir+"/s")
	cmd, pids := waiting(t, o, dir+"/s")
	for _, pid := range pids {
		attacker := exec.Command("/bin/kill", "-STOP", strconv.Itoa(pid))
		attacker.SysProcAttr = &syscall.SysProcAttr{}
		if os.Geteuid() == 0 {
			attacker.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
		}
		if attacker.Run() == nil && os.Geteuid() == 0 {
			t.Errorf("the service's user signals process %d", pid)
		}
	}
	_ = o.cmd.Process.Kill()
	if err := inTime(t, "the end of the service", o.cmd.Wait); err == nil {
		t.Error("the service was not killed")
	}
	if err := inTime(t, "the end of the call", cmd.Wait); err != nil {
		t.Error(err)
	}
	gone(t, pids)
}

// What waits in the place ends with us, also when the place goes on.
func TestKilled(t *testing.T) {
	dir := folder(t)
	o := start(t, apart|unix.CLONE_NEWNS)
	full(t, dir+"/s")
	cmd, pids := waiting(t, o, dir+"/s")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone(t, pids)
	o.listen(dir + "/alive")
}

// gone fails the test if a process does not end.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for _, pid := range pids {
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if ready, _ := fd.Poll(pidfd, unix.POLLIN, hung); ready == 0 {
			t.Errorf("process %d is left", pid)
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		_ = unix.Close(pidfd)
	}
}

// No pidfd is to be had: the child is given up, and reaped.
func TestNoDescriptor(t *testing.T) {
	dir := folder(t)
	o := start(t, apart)
	o.listen(dir + "/s")
	p, fd := place(t, o), connected(t, dir+"/s")
	openPidfd = func(int, int) (int, error) { return -1, unix.EMFILE }
	_, err := p.HasListener(fd)
	openPidfd = unix.PidfdOpen
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("without a descriptor: %v", err)
	}
	if left := childrenOf(os.Getpid()); len(left) != 1 {
		t.Errorf("children are left: %v, of which one is %d", left, o.cmd.Process.Pid)
	}
	if there, err := p.HasListener(fd); !there || err != nil {
		t.Errorf("%v, %v", there, err)
	}
}
