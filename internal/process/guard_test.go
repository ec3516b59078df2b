package process

import (
	"bufio"
	"context"
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
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// A rebel's main goroutine is on its main thread, and the others are not.
func init() {
	if len(os.Args) > 2 && os.Args[1] == "helper" && os.Args[2] == "rebel" {
		runtime.LockOSThread()
	}
}

// rebel rids itself of the parent-death signal in one of the two ways there are,
// shows what it has of it, and stays.
func rebel(way string) {
	switch way {
	case "exec":
		exe, _ := os.Executable()
		go func() { fmt.Println(syscall.Exec(exe, []string{exe, "helper", "rebel", "free"}, os.Environ())) }()
	case "prctl":
		_ = unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0)
		fallthrough
	default:
		sig := int32(-1)
		_ = unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0, 0, 0)
		fmt.Println("rebel has signal", sig)
	}
	ktest.Hang()
}

// holdRebels is an activator with some services, until it is killed. Between
// them, "unguard" kills its guard.
func holdRebels(ways []string) {
	s := starterFor()
	for _, way := range ways {
		if way == "unguard" {
			fmt.Println("guard", guardPid())
			killAndSee(guardPid())
			continue
		}
		p, err := s.Prepare(context.Background(), helperSpec("rebel", way), Inputs{Stdio: Stdio{Out: os.Stdout, Err: os.Stderr}})
		if err == nil {
			err = p.Go(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("service", p.Pid())
	}
	ktest.Hang()
}

// guardPid is the number of our guard, or of the one that was it last.
func guardPid() int {
	for _, pid := range children() {
		if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); string(line) == "activator-guard\x00" {
			lastGuard = pid
		}
	}
	return lastGuard
}

var lastGuard int

// killAndSee kills a child and returns when that has happened; it is not reaped.
func killAndSee(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err == nil {
		_ = unix.Kill(pid, unix.SIGKILL)
		err = awaitEnd(fd, time.Minute)
		_ = unix.Close(fd)
	}
	if err != nil {
		panic(err)
	}
}

func TestNobodyOutlivesTheGuardedActivator(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	for _, test := range []struct {
		ways  string
		stays bool // shows that the others die of the guard
	}{
		{"exec", false},
		{"prctl", false},
		{"exec prctl prctl exec", false},
		{"exec unguard prctl", false},
		{"exec unguard unguard exec unguard prctl", false},
		{"exec unguard", true},
		{"prctl unguard", true},
	} {
		t.Run(test.ways, func(t *testing.T) {
			pids := killRebels(t, strings.Fields(test.ways))
			for _, pid := range pids {
				if test.stays {
					stays(t, pid)
				}
				watch(t, pid)
			}
			for _, pid := range children() { // the guard, and guards that were killed
				watch(t, pid)
			}
		})
	}
}

// stays wants a process to be there, and kills it.
func stays(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Errorf("process %d: %v", pid, err)
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if err := awaitEnd(fd, 50*time.Millisecond); err == nil {
		t.Errorf("process %d died of something else", pid)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
}

// killRebels starts an activator with rebels, kills it when they have no signal
// any more, and returns their pids.
func killRebels(t *testing.T, ways []string) (pids []int) {
	t.Helper()
	command := exec.Command(helperSpec().Argv[0], append([]string{"helper", "rebels"}, ways...)...)
	out := ktest.StartReading(t, command)
	services := len(slices.DeleteFunc(slices.Clone(ways), func(way string) bool { return way == "unguard" }))
	guards := len(ways) - services
	free := 0
	for lines := bufio.NewScanner(out); (len(pids) < services || free < services || guards > 0) && lines.Scan(); {
		var pid int
		switch n, _ := fmt.Sscanf(lines.Text(), "service %d", &pid); {
		case n == 1:
			pids = append(pids, pid)
		case lines.Text() == "rebel has signal 0":
			free++
		case strings.HasPrefix(lines.Text(), "guard "):
			if _, err := fmt.Sscanf(lines.Text(), "guard %d", &pid); err == nil {
				guards--
				pidGone(t, pid)
			}
		default:
			t.Error(lines.Text())
		}
	}
	_ = command.Process.Kill()
	if err := command.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("%v", err)
	}
	if len(pids) != services || free != services {
		t.Fatalf("%d services, %d without the signal", len(pids), free)
	}
	return pids
}

// pidGone waits until a process has ended.
func pidGone(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if err := awaitEnd(fd, time.Minute); err != nil {
		t.Errorf("process %d: %v", pid, err)
	}
}

func TestGuardHoldsWhatLives(t *testing.T) {
	s := starterFor()
	defer s.Close()
	first := prepared(t, s, helperSpec("sleep"))
	second := prepared(t, s, helperSpec("sleep"))
	guards(t, s, first, second)

	old := guardPid()
	killAndSee(old)
	if err := second.Go(t.Context()); err != nil { // notices
		t.Fatal(err)
	}
	if guardPid() == old {
		t.Fatal("no new guard")
	}
	guards(t, s, first, second)

	killAndSee(guardPid())
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third := prepared(t, s, helperSpec("sleep"))
	guards(t, s, second, third)

	// Our own program, which has to live on for a moment.
	process := helperSpec("sleep")
	process.Bare = true
	bare := prepared(t, s, process)
	process.Sandbox.Init = true
	prepared(t, s, process)
	guards(t, s, second, third, bare)

	var limit unix.Rlimit
	if err := unix.Prlimit(guardPid(), unix.RLIMIT_NOFILE, nil, &limit); err != nil || limit.Cur != limit.Max {
		t.Errorf("%+v, %v", limit, err)
	}
}

// A guard that cannot take a descriptor is none, and goes; the next start tells
// another one of everybody.
func TestGuardWithoutRoom(t *testing.T) {
	s := starterFor()
	defer s.Close()
	first := prepared(t, s, helperSpec("sleep"))
	guards(t, s, first)
	full := guardPid()
	if err := unix.Prlimit(full, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 4, Max: 4}, nil); err != nil {
		t.Fatal(err)
	}
	second := prepared(t, s, helperSpec("sleep"))
	pidGone(t, full)
	third := prepared(t, s, helperSpec("sleep"))
	guards(t, s, first, second, third)
}

func TestStoppedGuardDoesNotStopUs(t *testing.T) {
	s := starterFor()
	p := prepared(t, s, helperSpec("sleep"))
	if err := unix.Kill(guardPid(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.Go(t.Context()); err != nil {
		t.Error(err)
	}
	begin := time.Now()
	s.Close()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("closed after %v", took)
	}
}

// A terminal, and a manager that ends a whole cgroup, do not end the guard.
func TestGuardOutlivesSignals(t *testing.T) {
	s := starterFor()
	defer s.Close()
	p := prepared(t, s, helperSpec("sleep"))
	guards(t, s, p) // it has come as far as to ignore them
	pid := guardPid()
	for _, sig := range []syscall.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	guards(t, s, p, prepared(t, s, helperSpec("sleep")))
	if guardPid() != pid {
		t.Error("another guard")
	}
}

func prepared(t *testing.T, s *Starter, process spec.Process) *Process {
	t.Helper()
	p, err := s.Prepare(t.Context(), process, Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// guards wants the guard to hold exactly these.
func guards(t *testing.T, s *Starter, want ...*Process) {
	t.Helper()
	var pids []int
	for _, p := range want {
		pids = append(pids, p.Pid())
	}
	slices.Sort(pids)
	if held := guarded(t, s, want...); !slices.Equal(held, pids) {
		t.Errorf("the guard holds %v, want %v", held, pids)
	}
}

// guarded returns the pids whose pidfds the guard holds, in order, once these are
// among them, or after a while. Those that have been reaped are -1.
func guarded(t *testing.T, s *Starter, want ...*Process) (held []int) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); runtime.Gosched() {
		held = held[:0]
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", guardPid()))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			var pid int
			if _, after, ok := strings.Cut(string(text), "\nPid:"); ok {
				_, _ = fmt.Sscan(after, &pid)
				held = append(held, pid)
			}
		}
		slices.Sort(held)
		if !slices.ContainsFunc(want, func(p *Process) bool { return !slices.Contains(held, p.Pid()) }) {
			break
		}
	}
	return held
}
