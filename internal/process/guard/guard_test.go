package guard

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if IsGuard() {
		RunGuard()
	}
	ktest.Main(m)
}

// guardFor is a guard of this test binary.
func guardFor(t *testing.T) *Guard {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = null.Close() })
	g, err := Start(func(name string, socket int) (int, error) {
		pid, _, err := syscall.StartProcess("/proc/self/exe", []string{name}, &syscall.ProcAttr{
			Files: []uintptr{null.Fd(), null.Fd(), null.Fd(), uintptr(socket)}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return pid, err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

// sleeper is a process under guard, until the end of the test.
func sleeper(t *testing.T, g *Guard) (command *exec.Cmd, pidfd *os.File) {
	t.Helper()
	command, pidfd = started(t, "sleep", "1000")
	if err := g.AddProcess(pidfd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		g.ForgetProcess(pidfd)
		_ = pidfd.Close()
	})
	return command, pidfd
}

// started starts a command; the caller waits for it and closes the pidfd.
func started(t *testing.T, argv ...string) (*exec.Cmd, *os.File) {
	t.Helper()
	pidfd := -1
	command := exec.Command(argv[0], argv[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	return command, os.NewFile(uintptr(pidfd), "pidfd")
}

// One that reads nothing for long is as good as dead.
func TestStoppedGuardIsReplaced(t *testing.T) {
	g := guardFor(t)
	g.timeout = 50 * time.Millisecond
	command, pidfd := sleeper(t, g)
	stopped := g.pid
	if err := unix.Kill(stopped, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for n := 0; g.pid == stopped; n++ { // until the queue is full
		if err := g.AddProcess(pidfd); err != nil || n > 100_000 {
			t.Fatalf("%d messages: %v", n, err)
		}
	}
	if held := guarded(g, command.Process.Pid); len(held) != 1 || held[0] != command.Process.Pid {
		t.Errorf("the guard holds %v", held)
	}
}

// The guard is told of every process, and keeps those that live.
func TestGuardForgets(t *testing.T) {
	g := guardFor(t)
	first, _ := sleeper(t, g)
	for range 1000 {
		command, pidfd := started(t, "true")
		if err := g.AddProcess(pidfd); err != nil {
			t.Fatal(err)
		}
		if err := command.Wait(); err != nil {
			t.Fatal(err)
		}
		g.ForgetProcess(pidfd)
		_ = pidfd.Close()
	}
	last, _ := sleeper(t, g)
	held := guarded(g, last.Process.Pid)
	if len(held) > 3*wardMargin || !slices.Contains(held, first.Process.Pid) {
		t.Errorf("%d held: %v", len(held), held)
	}
}

// guarded returns the pids whose pidfds the guard holds, once that one is
// among them, or after a while. Those that have been reaped are -1.
func guarded(g *Guard, want int) (held []int) {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline) && !slices.Contains(held, want); runtime.Gosched() {
		held = held[:0]
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", g.pid))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			var pid int
			if _, after, ok := strings.Cut(string(text), "\nPid:"); ok {
				_, _ = fmt.Sscan(after, &pid)
				held = append(held, pid)
			}
		}
	}
	return held
}

// The guard has no collector.
func TestWardAllocatesNothing(t *testing.T) {
	w, tell := wardHere(t)
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(self) }()
	oob := unix.UnixRights(self)
	w.held = make([]int32, 0, 1000)
	for range 101 { // AllocsPerRun runs it once more
		if err := unix.Sendmsg(tell, []byte{0}, oob, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		if err := w.receivePidfd(); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(w.held) != 101 {
		t.Errorf("%d held", len(w.held))
	}
	_ = unix.Close(tell)
	if err := w.receivePidfd(); err == nil || !w.orphaned {
		t.Errorf("end of file: %v", err)
	}
	for _, fd := range w.held {
		_ = unix.Close(int(fd))
	}
}

// More than are killed at once, and some that are dead already.
func TestWardKillsAll(t *testing.T) {
	w := new(ward)
	var all []*exec.Cmd
	for i := range 2*killAtOnce + 2 {
		pidfd := -1
		command := exec.Command("sleep", "1000")
		command.SysProcAttr = &syscall.SysProcAttr{PidFD: &pidfd, Pdeathsig: syscall.SIGKILL}
		if err := command.Start(); err != nil {
			t.Fatal(err)
		}
		w.held = append(w.held, int32(pidfd))
		if i%10 == 0 {
			_ = command.Process.Kill()
			_ = command.Wait()
			continue
		}
		all = append(all, command)
	}
	w.killAll()
	for _, command := range all {
		if err := command.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Errorf("%v", err)
		}
	}
	w.closeReaped()
	if len(w.held) != 0 {
		t.Errorf("%d still held", len(w.held))
	}
}

// wardHere is a guard's ward in our own process, and the end to tell it by.
func wardHere(t *testing.T) (w *ward, tell int) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(pair[1]) })
	return newWard(pair[1]), pair[0]
}
