package fdpass

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stage is the process that execs: it has the descriptors at their numbers
// already and knows its own pid.
func stage() {
	env, err := MakeEnviron(strings.Split(os.Getenv("TEST_NAMES"), ":"), os.Getpid(), ownPidfd())
	if err != nil {
		fatal(err)
	}
	// What the machine that runs the tests left open is not under test.
	first := firstFD + 1 + strings.Count(os.Getenv("TEST_NAMES"), ":")
	if err := unix.CloseRange(uint(first), ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		fatal(err)
	}
	env = append(env, StripEnviron(os.Environ())...)
	for i, entry := range env {
		if strings.HasPrefix(entry, helperVariable+"=") {
			env[i] = helperVariable + "=program"
		}
	}
	// What the tests make wrong on purpose; {pid} is our own.
	for _, entry := range strings.Fields(os.Getenv("TEST_OVERRIDE")) {
		name, _, _ := strings.Cut(entry, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if !strings.HasSuffix(entry, "=-") {
			env = append(env, strings.ReplaceAll(entry, "{pid}", strconv.Itoa(os.Getpid())))
		}
	}
	fatal(unix.Exec("/proc/self/exe", []string{"program"}, env))
}

// view is what the program sees of itself.
type view struct {
	Error        string
	NotActivated bool
	Variable     string
	Names        []string
	Targets      []string // links in /proc/self/fd
	CloseOnExec  []bool
	Open         []int // what came through execve
	Left         []string
	Second       string // error of a second Receive
}

func program() {
	var v view
	open := openWithoutCloexec()
	inherited, err := ReceiveInherited()
	var bad *Error
	if errors.As(err, &bad) {
		v.Variable = bad.Variable
	}
	if err != nil {
		v.Error, v.NotActivated = err.Error(), errors.Is(err, ErrNotActivated)
	}
	v.Open = open
	for _, in := range inherited {
		fd := int(in.File.Fd())
		target, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		v.Names = append(v.Names, in.Name)
		v.Targets = append(v.Targets, strconv.Itoa(fd)+" "+target)
		v.CloseOnExec = append(v.CloseOnExec, flags&unix.FD_CLOEXEC != 0)
	}
	for _, entry := range os.Environ() {
		if strings.HasPrefix(entry, "LISTEN_") {
			v.Left = append(v.Left, entry)
		}
	}
	if _, err := ReceiveInherited(); err != nil {
		v.Second = err.Error()
	}
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		fatal(err)
	}
	os.Exit(0)
}

// openWithoutCloexec lists the descriptors that came through execve; Go's own
// have FD_CLOEXEC.
func openWithoutCloexec() (open []int) {
	for fd := range 64 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	return open
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

// runStage starts a stage with the files at 3 and up and returns what the
// program it becomes sees.
func runStage(t *testing.T, files []*os.File, env ...string) view {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append([]string{helperVariable + "=stage", "GORACE=atexit_sleep_ms=0",
		"LISTEN_FDS=77", "LISTEN_PID=1", "LISTEN_TOMORROW=1"}, env...)...)
	cmd.ExtraFiles = files
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	return v
}

func socketFiles(t *testing.T, n int) (files []*os.File, targets []string) {
	t.Helper()
	for i := range n {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { _ = f.Close() })
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		files, targets = append(files, f), append(targets, fmt.Sprintf("%d %s", firstFD+i, target))
	}
	return files, targets
}

func TestHandOver(t *testing.T) {
	for _, n := range []int{1, 5, 40} {
		files, targets := socketFiles(t, n)
		names := make([]string, n)
		for i := range names {
			names[i] = fmt.Sprintf("name %d", i)
		}
		v := runStage(t, files, "TEST_NAMES="+strings.Join(names, ":"))
		want := make([]int, firstFD+n)
		for i := range want {
			want[i] = i
		}
		if v.Error != "" || !slices.Equal(v.Names, names) || !slices.Equal(v.Targets, targets) {
			t.Errorf("%d: got %+v", n, v)
		}
		if !slices.Equal(v.Open, want) {
			t.Errorf("%d: open %v", n, v.Open)
		}
		if slices.Contains(v.CloseOnExec, false) || v.Left != nil || v.Second != ErrNotActivated.Error() {
			t.Errorf("%d: after Receive: %+v", n, v)
		}
	}
}

// TestTwoAtOnce: each child sees its own sockets only.
func TestTwoAtOnce(t *testing.T) {
	for _, name := range []string{"one", "two", "three", "four"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, targets := socketFiles(t, 3)
			v := runStage(t, files, "TEST_NAMES=a:b:"+name)
			if v.Error != "" || !slices.Equal(v.Targets, targets) || len(v.Open) != 6 || v.Names[2] != name {
				t.Errorf("got %+v", v)
			}
		})
	}
}

func TestReceiveRefuses(t *testing.T) {
	files, _ := socketFiles(t, 2)
	tests := []struct {
		override, variable, text string
	}{
		{"LISTEN_PID=1", listenPID, "LISTEN_PID=1 is not this process ("},
		{"LISTEN_FDS=3 LISTEN_FDNAMES=-", listenFDs, "LISTEN_FDS=3 claims descriptors 3 to 5, but 5 was not passed"},
		{"LISTEN_FDS=900000 LISTEN_FDNAMES=-", listenFDs, "but 5 was not passed"},
		{"LISTEN_FDS=x", listenFDs, "LISTEN_FDS=x is not a number"},
		{"LISTEN_FDNAMES=a", listenNames, "LISTEN_FDNAMES=a has 1 names for LISTEN_FDS=2 descriptors"},
		{"LISTEN_PID=-", listenFDs, "LISTEN_FDS=2 without LISTEN_PID"},
		{"LISTEN_FDS=-", "", ErrNotActivated.Error()},
	}
	for _, tt := range tests {
		v := runStage(t, files, "TEST_NAMES=a:b", "TEST_OVERRIDE="+tt.override)
		if !strings.Contains(v.Error, tt.text) || v.Variable != tt.variable || v.Left != nil || v.NotActivated != (tt.variable == "") {
			t.Errorf("%s: got %+v", tt.override, v)
		}
	}
}

func TestReceivePidfdID(t *testing.T) {
	if _, ok := ownPidfdID(); !ok {
		t.Skip("this kernel has no pidfs (Linux 6.9): the variable must be absent, see TestHandOver")
	}
	files, _ := socketFiles(t, 1)
	v := runStage(t, files, "TEST_NAMES=a", "TEST_OVERRIDE=LISTEN_PIDFDID=1")
	if v.Variable != listenPidfd || !strings.Contains(v.Error, "LISTEN_PIDFDID=1 is not this process") {
		t.Errorf("got %+v", v)
	}
	pidfd := ownPidfd()
	defer func() { _ = unix.Close(pidfd) }()
	env, err := MakeEnviron([]string{"a"}, os.Getpid(), pidfd)
	if err != nil || len(env) != 4 || !strings.HasPrefix(env[3], "LISTEN_PIDFDID=") {
		t.Errorf("Environ: %q, %v", env, err)
	}
}

func TestReceiveWithoutNames(t *testing.T) {
	files, _ := socketFiles(t, 2)
	v := runStage(t, files, "TEST_NAMES=a:b", "TEST_OVERRIDE=LISTEN_FDNAMES=-")
	if v.Error != "" || !slices.Equal(v.Names, []string{"unknown", "unknown"}) {
		t.Errorf("got %+v", v)
	}
}

// ownPidfd is one of this process, until its end.
func ownPidfd() int {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return -1
	}
	return fd
}
