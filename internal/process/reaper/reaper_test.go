package reaper

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && (os.Args[1] == "reaper" || os.Args[1] == "follower") {
		beReaper(os.Args[1], os.Args[2])
	}
	ktest.Main(m)
}

// beReaper keeps a shell, and never returns. Its standard input is its lifeline. A "follower" follows what has a file at 9.
func beReaper(kind, script string) {
	r, err := New(true, false)
	if err != nil {
		panic(err)
	}
	if kind == "follower" {
		r.Serves = func(pid int) bool {
			_, err := os.Lstat(fmt.Sprintf("/proc/%d/fd/9", pid))
			return err == nil
		}
	}
	child := exec.Command("sh", "-c", script)
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		panic(err)
	}
	os.Exit(r.AwaitEnd(child.Process.Pid, os.Stdin))
}

// startReaper starts a reaper of a shell, and returns the number that this says.
func startReaper(t *testing.T, kind, script string) (command *exec.Cmd, lifeline *os.File, said int) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	theirs, lifeline, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = theirs.Close(), lifeline.Close() })
	command = exec.Command(exe, kind, script)
	command.Stdin, command.Stderr = theirs, os.Stderr
	out := ktest.StartReading(t, command)
	if _, err := fmt.Fscan(bufio.NewReader(out), &said); err != nil {
		t.Error(err)
	}
	return command, lifeline, said
}

// A program that goes to the background is followed: its child has the signals, and its exit is the program's. One that
// fails is not.
func TestFollow(t *testing.T) {
	for script, want := range map[string]int{
		"exec 9</dev/null; sleep 1000 & echo $!; exit 0":      128 + 15,
		"exec 9</dev/null; (sleep 1000 & echo $!); exit 0":    128 + 15,
		"exec 9</dev/null; sleep 1000 9<&- & echo $!; exit 0": 0,
		"exec 9</dev/null; sleep 0 & echo $$; wait; exit 0":   0,
		"exec 9</dev/null; sleep 1000 & echo $!; exit 7":      7,
		// Its child has closed what the child's child has.
		"trap : TERM; exec 9</dev/null; p=$(sh -c 'sleep 1000 >&- & exec 9<&-; trap \"exit 5\" TERM; echo $$; exec >&-; wait' &); echo $p; exit 0": 5,
	} {
		command, _, serving := startReaper(t, "follower", script)
		if want > 128 || want == 5 {
			for gone := false; !gone; { // the shell; then the signal is for the one that it has left
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", serving))
				if err != nil {
					t.Fatal(err)
				}
				gone = strings.Contains(string(stat), fmt.Sprintf("\nPPid:\t%d\n", command.Process.Pid))
			}
			_ = command.Process.Signal(syscall.SIGTERM)
		}
		_ = command.Wait()
		if got := command.ProcessState.ExitCode(); got != want {
			t.Errorf("%s: %d, not %d", script, got, want)
		}
	}
}

// A reaper ends as its program does, after everything that this has left behind.
func TestKeep(t *testing.T) {
	hangUp := func(_ *exec.Cmd, lifeline *os.File) { _ = lifeline.Close() }
	terminate := func(reaper *exec.Cmd, _ *os.File) { _ = reaper.Process.Signal(syscall.SIGTERM) }
	for _, test := range []struct {
		script string // says the number of a process that it leaves behind
		then   func(reaper *exec.Cmd, lifeline *os.File)
		want   int
	}{
		{"sleep 1000 & echo $!; exit 3", nil, 3},
		{"sleep 1000 & echo $!; kill -TERM $$", nil, 128 + 15},
		{"(sleep 1000 & echo $!); sh -c 'exit 1'; exit 4", nil, 4},
		{"sleep 1000 & echo $!; wait", hangUp, 128 + 9},
		{"trap 'exit 5' TERM; sleep 1000 & echo $!; wait", terminate, 5},
	} {
		command, lifeline, left := startReaper(t, "reaper", test.script)
		if test.then != nil {
			test.then(command, lifeline)
		}
		_ = command.Wait()
		if got := command.ProcessState.ExitCode(); got != test.want {
			t.Errorf("%s: %d, not %d", test.script, got, test.want)
		}
		if err := unix.Kill(left, 0); err != unix.ESRCH {
			t.Errorf("%s: process %d is left: %v", test.script, left, err)
		}
	}
}
