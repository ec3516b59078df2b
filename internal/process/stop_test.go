package process

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestStop(t *testing.T) {
	for _, test := range []struct {
		argv   []string
		init   bool
		sig    syscall.Signal
		killed bool
		exit   Exit
	}{
		{helperSpec("term").Argv, false, syscall.SIGTERM, false, Exit{Code: 7}},
		{helperSpec("term").Argv, true, syscall.SIGTERM, false, Exit{Code: 7}},
		{helperSpec("term").Argv, false, syscall.SIGKILL, true, Exit{Signal: syscall.SIGKILL}},
		// No handler: pid 1 would ignore it for ever.
		{[]string{"sh", "-c", "echo ready; sleep 1000; :"}, false, syscall.SIGTERM, true, Exit{Signal: syscall.SIGKILL}},
		{[]string{"sh", "-c", "echo ready; exec sleep 1000"}, true, syscall.SIGTERM, false, Exit{Code: 128 + 15}},
		{[]string{"sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done"}, false, syscall.SIGTERM, false, Exit{Code: 9}},
		{[]string{"sh", "-c", "trap 'exit 9' HUP; echo ready; while :; do sleep 1000 & wait; done"}, true, syscall.SIGHUP, false, Exit{Code: 9}},
	} {
		t.Run(fmt.Sprint(test.argv[len(test.argv)-1], test.init, test.sig), func(t *testing.T) {
			process := helperSpec()
			process.Argv, process.Sandbox.Init = test.argv, test.init
			s := start(t, process)
			s.line(t)
			killed, err := s.Stop(test.sig)
			if err != nil || killed != test.killed {
				t.Fatalf("killed %v, %v", killed, err) // it would not end
			}
			if _, exit := s.end(t); exit != test.exit {
				t.Errorf("%v", exit)
			}
			if killed, err := s.Stop(test.sig); killed || err != nil {
				t.Errorf("after the end: killed %v, %v", killed, err)
			}
		})
	}
}

// A program that has a signal blocked for a moment, as each has that forks, does not wait for it, however long the moment is on
// a busy machine. One that sleeps with it blocked does.
func TestStopWhileBlocked(t *testing.T) {
	python, err := exec.LookPath("/usr/bin/python3")
	if err != nil {
		ktest.Skip(t, "%v: install it", err)
	}
	for then, want := range map[string]bool{
		"end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass\npthread_sigmask(SIG_UNBLOCK, [SIGTERM])\ntime.sleep(1000)": true,
		"sigwait([SIGTERM])":                       false,
		"while not sigpending(): time.sleep(0.01)": false,
	} {
		process := helperSpec()
		process.Argv = []string{python, "-c", "import time; from signal import *\npthread_sigmask(SIG_BLOCK, [SIGTERM])\nprint('ready', flush=True)\n" + then}
		s := start(t, process)
		s.line(t)
		if killed, err := s.Stop(syscall.SIGTERM); killed != want || err != nil {
			t.Fatalf("killed %v, %v: %s", killed, err, then)
		}
		s.end(t)
	}
}

// A program that takes the default action in the end, by its own hand, has none as pid
// 1, and ends under a reaper.
func TestLostHandler(t *testing.T) {
	for _, init := range []bool{false, true} {
		process := helperSpec()
		process.Argv = []string{"sh", "-c", "trap 'trap - TERM; kill -TERM $$; echo again' TERM; echo ready; while :; do sleep 0.01; done"}
		process.Sandbox.Init = init
		s := start(t, process)
		s.line(t)
		if s.LostHandler(syscall.SIGTERM) {
			t.Error("lapsed before the signal")
		}
		if killed, err := s.Stop(syscall.SIGTERM); killed || err != nil {
			t.Errorf("killed %v, %v", killed, err)
		}
		if init {
			if _, exit := s.end(t); exit.Code != 128+15 {
				t.Errorf("%v", exit)
			}
			continue
		}
		if got := s.line(t); got != "again" {
			t.Fatalf("it printed %q", got)
		}
		if !s.LostHandler(syscall.SIGTERM) {
			t.Error("not lapsed afterwards")
		}
		s.Kill()
		s.end(t)
	}
}

func TestIgnoredSignalIsNotTheEnd(t *testing.T) {
	process := helperSpec()
	process.Argv = []string{"sh", "-c", "trap '' TERM; trap 'exit 5' USR1; echo ready; while :; do sleep 1000 & wait; done"}
	s := start(t, process)
	s.line(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGWINCH, syscall.SIGUSR1} {
		if killed, err := s.Stop(sig); killed || err != nil {
			t.Errorf("%v: killed %v, %v", sig, killed, err)
		}
	}
	if _, exit := s.end(t); exit.Code != 5 {
		t.Errorf("%v", exit)
	}
}

// The pid that a service tells is one of its own namespace.
func TestMainProcessCanBeAnother(t *testing.T) {
	for _, init := range []bool{false, true} {
		process := helperSpec("fork", "term")
		process.Sandbox.Init = init
		s := start(t, process)
		inner := 0
		for range 2 { // the child's "ready" may come first
			if _, err := fmt.Sscanf(s.line(t), "child %d", &inner); err == nil {
				continue
			}
		}
		if inner == 0 {
			t.Fatal("no child")
		}
		if err := s.SetMain(1 << 20); err == nil {
			t.Error("a stranger became the main process")
		}
		if err := s.SetMain(inner); err != nil {
			t.Fatal(err)
		}
		if killed, err := s.Stop(syscall.SIGTERM); killed || err != nil {
			t.Errorf("killed %v, %v", killed, err)
		}
		// The first process would run for ever.
		if _, exit := s.end(t); exit.Signal != syscall.SIGKILL {
			t.Errorf("%v", exit)
		}
	}
}

func TestBareLeavesTheWorldAsItIs(t *testing.T) {
	process := helperSpec("view")
	process.Bare = true
	s := start(t, process)
	pid := s.Pid()
	v := s.view(t)
	if v.Pid != pid || v.UID != os.Getuid() || len(v.Top) < 10 || v.Umask != "0027" {
		t.Errorf("pid %d: %+v", pid, v)
	}
}

func TestBareWithReaperEndsWhatWasLeft(t *testing.T) {
	process := helperSpec("daemon")
	process.Bare, process.Sandbox.Init = true, true
	s := start(t, process)
	left := daemon(t, s)
	if _, exit := s.end(t); exit.Code != 3 {
		t.Errorf("%v", exit)
	}
	gone(t, left)

	process.Argv = []string{"sh", "-c", helperSpec().Argv[0] + " helper daemon; sleep 1000"}
	s = start(t, process)
	left = daemon(t, s)
	s.Kill()
	s.end(t)
	gone(t, left)
}

func daemon(t *testing.T, s *service) (pid int) {
	t.Helper()
	if _, err := fmt.Sscanf(s.line(t), "daemon %d", &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func gone(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("process %d: %v", pid, err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// Whatever moment the activator is killed at, nothing stays.
func TestNothingOutlivesTheActivator(t *testing.T) {
	// What the activator leaves comes to us, and is waited for.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	for _, kind := range []string{"plain", "init", "bare", "bare init"} {
		moments := 100
		if kind != "plain" {
			moments = 20
		}
		t.Run(kind, func(t *testing.T) {
			host := ktest.MountAlone(t, "")
			defer host.Close()
			before := host.List(t)
			for i := range moments {
				killAt(t, kind, i*137%9973) // microseconds into its loop of starts
			}
			for left := children(); len(left) > 0; left = children() {
				for _, pid := range left {
					watch(t, pid)
				}
			}
			if after := host.List(t); !slices.Equal(after, before) {
				t.Errorf("mounts\n%q, were\n%q", after, before)
			}
		})
	}
}

func killAt(t *testing.T, kind string, microseconds int) {
	t.Helper()
	exe := helperSpec().Argv[0]
	command := exec.Command(exe, append([]string{"helper", "activator"}, strings.Fields(kind)...)...)
	out := ktest.StartReading(t, command)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Errorf("%q, %v", line, err)
	}
	timeout := unix.NsecToTimespec(int64(microseconds) * 1000)
	_, _ = unix.Ppoll(nil, &timeout, nil)
	_ = command.Process.Kill()
	if err := command.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("%v", err)
	}
}

// watch waits for an orphan on its way out. One that stays fails.
func watch(t *testing.T, pid int) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if err := awaitEnd(fd, 5*time.Minute); err != nil {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		t.Errorf("process %d %q stays: %v", pid, cmdline, err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	var status unix.WaitStatus
	_, _ = unix.Wait4(pid, &status, 0, nil)
}
