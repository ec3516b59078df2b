package vfork

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// vm is how a child is mostly started.
const vm = unix.CLONE_VM | unix.CLONE_FILES

// fresh returns a call list; the test closes it.
func fresh(t *testing.T) *CallList {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	s.DefaultSignals()
	return s
}

// start starts the child, which is killed if it still runs at the end of the test.
func start(t *testing.T, s *CallList, flags uintptr) (pid int) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	pid, pidfd, err := s.Start(flags)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		_ = unix.Close(pidfd)
	})
	return pid
}

func wait(t *testing.T, pid int) unix.WaitStatus {
	t.Helper()
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err == nil {
			return status
		}
		if err != unix.EINTR {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, s *CallList, flags uintptr) int {
	t.Helper()
	return wait(t, start(t, s, flags)).ExitStatus()
}

// exit ends the child with a status.
func (s *CallList) exit(status uintptr) { s.Do(unix.SYS_EXIT_GROUP, status) }

// The layout that child_*.s knows.
func TestLayout(t *testing.T) {
	for name, offsets := range map[string][2]uintptr{
		"positive": {unsafe.Offsetof(call{}.positive), 56}, "zero": {unsafe.Offsetof(call{}.zero), 64},
		"failed": {unsafe.Offsetof(call{}.failed), 72}, "expected": {unsafe.Offsetof(call{}.expected), 80}, "result": {unsafe.Offsetof(call{}.result), 96},
		"at": {unsafe.Offsetof(head{}.at), 0}, "where": {unsafe.Offsetof(head{}.where), 8},
		"errno": {unsafe.Offsetof(head{}.errno), 16}, "failure": {unsafe.Offsetof(head{}.failure), 24}, "calls": {uintptr(callsAt), 128},
	} {
		if offsets[0] != offsets[1] {
			t.Errorf("%s is at %d, not at %d", name, offsets[0], offsets[1])
		}
	}
}

// Every way to go on, after every kind of result.
func TestWhereItGoesOn(t *testing.T) {
	const nothing = 1000 // no such descriptor
	for name, test := range map[string]struct {
		calls func(s *CallList, there Label)
		want  int // 1: the next call, 2: there
	}{
		"zero":                 {func(s *CallList, _ Label) { s.Do(unix.SYS_CHDIR, s.AddText("/")) }, 1},
		"zero, elsewhere":      {func(s *CallList, l Label) { s.Do(unix.SYS_CHDIR, s.AddText("/")).OnZero(l) }, 2},
		"zero, not positive":   {func(s *CallList, l Label) { s.Do(unix.SYS_CHDIR, s.AddText("/")).OnPositive(l) }, 1},
		"positive":             {func(s *CallList, l Label) { s.Do(unix.SYS_GETPID).OnZero(l) }, 1},
		"positive, elsewhere":  {func(s *CallList, l Label) { s.Do(unix.SYS_GETPID).OnPositive(l) }, 2},
		"jump":                 {func(s *CallList, l Label) { s.JumpTo(l) }, 2},
		"ignored":              {func(s *CallList, _ Label) { s.Do(unix.SYS_CLOSE, nothing).IgnoreErrors() }, 1},
		"ignored, this one":    {func(s *CallList, _ Label) { s.Do(unix.SYS_CLOSE, nothing).IgnoreErrors(unix.ENOENT, unix.EBADF) }, 1},
		"failed, elsewhere":    {func(s *CallList, l Label) { s.Do(unix.SYS_CLOSE, nothing).OnError(l) }, 2},
		"failed, a high errno": {func(s *CallList, l Label) { s.Do(unix.SYS_SOCKET, 200, 1, 0).OnError(l, unix.EAFNOSUPPORT) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := fresh(t)
			there := s.NewLabel()
			test.calls(s, there)
			s.exit(1)
			s.PlaceLabel(there)
			s.exit(2)
			if got := run(t, s, vm); got != test.want {
				t.Errorf("went on at %d, not %d: %v", got, test.want, s.Failure())
			}
		})
	}
}

func TestFailure(t *testing.T) {
	for name, test := range map[string]struct {
		call func(s *CallList)
		want unix.Errno
	}{
		"a low errno":             {func(s *CallList) { s.Do(unix.SYS_CLOSE, 1000) }, unix.EBADF},
		"another one is ignored":  {func(s *CallList) { s.Do(unix.SYS_CLOSE, 1000).IgnoreErrors(unix.ENOENT) }, unix.EBADF},
		"a high errno":            {func(s *CallList) { s.Do(unix.SYS_SOCKET, 200, 1, 0).IgnoreErrors(unix.EBADF) }, unix.EAFNOSUPPORT},
		"no such call":            {func(s *CallList) { s.FailAlways() }, unix.ENOSYS},
		"the first of two counts": {func(s *CallList) { s.Do(unix.SYS_CLOSE, 1000) }, unix.EBADF},
	} {
		for _, flags := range []uintptr{vm, 0} {
			t.Run(fmt.Sprintf("%s, flags %#x", name, flags), func(t *testing.T) {
				s := fresh(t)
				begin := s.NewLabel()
				s.JumpTo(begin)
				s.OnFailure()
				s.Do(unix.SYS_CHDIR, s.AddText("/no/such")) // and its failure is the end
				s.exit(3)
				s.PlaceLabel(begin)
				s.ExplainNext(func(errno unix.Errno) error { return fmt.Errorf("this call: %w", errno) })
				test.call(s)
				s.ExplainNext(nil)
				s.exit(1)
				if got := run(t, s, flags); got != 0 {
					t.Errorf("exit %d", got)
				}
				err := s.Failure()
				if !errors.Is(err, test.want) || err.Error() == test.want.Error() {
					t.Errorf("%v", err)
				}
			})
		}
	}
	s := fresh(t)
	own := errors.New("refused by us")
	s.FailWith(own)
	if run(t, s, vm); s.Failure() != own {
		t.Errorf("%v", s.Failure())
	}
}

// What follows a failure is done, once.
func TestOnFailure(t *testing.T) {
	s := fresh(t)
	begin := s.NewLabel()
	s.JumpTo(begin)
	s.OnFailure()
	s.exit(7)
	s.PlaceLabel(begin)
	s.Do(unix.SYS_CLOSE, 1000)
	s.exit(1)
	if got := run(t, s, vm); got != 7 {
		t.Errorf("exit %d", got)
	}
}

func TestResults(t *testing.T) {
	s := fresh(t)
	made := []Call{s.Do(unix.SYS_CHDIR, s.AddText("/")), s.Do(unix.SYS_GETPID), s.Do(unix.SYS_CLOSE, 1000).IgnoreErrors(), s.Do(unix.SYS_CLOSE, 1000)}
	made = append(made, s.Do(unix.SYS_GETPID))
	pid := start(t, s, vm)
	wait(t, pid)
	for i, want := range []int{0, pid, -int(unix.EBADF), -int(unix.EBADF), notMade} {
		if got := made[i].Result(); got != want {
			t.Errorf("%d: %d, not %d", i, got, want)
		}
	}
}

// The rest of a call list is written while the child waits for it.
func TestTheRestComesLater(t *testing.T) {
	for _, flags := range []uintptr{vm, unix.CLONE_FILES} {
		ours, theirs := pair(t)
		s := fresh(t)
		cell := s.NewBuffer(8)
		s.Do(unix.SYS_READ, uintptr(theirs), cell.Address, 1)
		pid := start(t, s, flags)
		s.exit(4)
		if err := s.Finish(); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(ours, []byte("g")); err != nil {
			t.Fatal(err)
		}
		if got := wait(t, pid).ExitStatus(); got != 4 || cell.Bytes[0] != 'g' {
			t.Errorf("flags %#x: exit %d, %q", flags, got, cell.Bytes)
		}
	}
}

func pair(t *testing.T) (int, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

// The number of a descriptor is known before it is opened.
func TestDescriptorsAreKnown(t *testing.T) {
	_, theirs := pair(t)
	s := fresh(t)
	s.Do(unix.SYS_DUP3, uintptr(theirs), 0, unix.O_CLOEXEC)
	s.Do(unix.SYS_CLOSE_RANGE, 1, uintptr(^uint32(0)), 0)
	s.SetNextDescriptor(1)
	first := s.Open(unix.SYS_OPENAT, WorkingDirectory, s.AddText("/"), unix.O_PATH, 0)
	second := s.Open(unix.SYS_OPENAT, WorkingDirectory, s.AddText("/"), unix.O_PATH, 0)
	s.CloseFrom(second)
	third := s.Open(unix.SYS_OPENAT, WorkingDirectory, s.AddText("/"), unix.O_PATH, 0)
	if first != 1 || second != 2 || third != 2 || s.NextDescriptor() != 3 {
		t.Fatalf("%d, %d, %d", first, second, third)
	}
	s.Do(unix.SYS_FCNTL, uintptr(third), unix.F_GETFD, 0)
	s.CloseFrom(first)
	s.Do(unix.SYS_FCNTL, uintptr(first), unix.F_GETFD, 0).IgnoreErrors(unix.EBADF)
	s.exit(5)
	if got := run(t, s, unix.CLONE_VM); got != 5 {
		t.Errorf("exit %d: %v", got, s.Failure())
	}
}

// A child that waits has every signal's default action, and an exec comes with all
// arguments and our own memory untouched.
func TestSignalsAndExec(t *testing.T) {
	_, theirs := pair(t)
	s := fresh(t)
	cell := s.NewBuffer(8)
	s.Do(unix.SYS_READ, uintptr(theirs), cell.Address, 1)
	pid := start(t, s, vm)
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := wait(t, pid); status.Signal() != unix.SIGTERM {
		t.Errorf("%v", status)
	}

	name := t.TempDir() + "/out"
	s = fresh(t)
	argv := s.AddWords(s.AddTexts([]string{"sh", "-c", `echo "$1$WORD" >"$0"; exit 6`, name, "a b"})...)
	env := s.AddWords(s.AddTexts([]string{"WORD=c"})...)
	exec := s.Do(unix.SYS_EXECVE, s.AddText("/bin/sh"), argv.Address, env.Address)
	if got := run(t, s, unix.CLONE_VM); got != 6 || !s.IsAt(exec) {
		t.Errorf("exit %d", got)
	}
	if text, err := os.ReadFile(name); string(text) != "a bc\n" {
		t.Errorf("%q, %v", text, err)
	}
}

func TestTooMuch(t *testing.T) {
	s := fresh(t)
	for range maxCalls + 1 {
		s.Do(unix.SYS_GETPID)
	}
	if err := s.Finish(); !errors.Is(err, unix.E2BIG) {
		t.Errorf("%v", err)
	}
	s = fresh(t)
	s.AddBytes(make([]byte, size))
	if err := s.Finish(); !errors.Is(err, unix.E2BIG) {
		t.Errorf("%v", err)
	}
}

// What one call list leaves the next one does not see.
func TestMemoryIsFresh(t *testing.T) {
	for range 2 * cap(reserve) {
		s, err := New()
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(s.region[:dataAt+mostReserved], func(b byte) bool { return b != 0 }); i >= 0 {
			t.Fatalf("byte %d is %d", i, s.region[i])
		}
		for range 100 {
			s.Do(^uintptr(0), 1, 2, 3, 4, 5, 6)
			s.AddText("text")
		}
		s.OnFailure()
		if err := s.Finish(); err != nil {
			t.Fatal(err)
		}
		s.Close()
		s.Close()
	}
}

// Threads of ours that start and stop meanwhile do not mind.
func TestManyAtOnce(t *testing.T) {
	done := make(chan int)
	const children = 32
	for range children {
		go func() {
			runtime.LockOSThread() // and the thread ends with the goroutine
			s, err := New()
			if err != nil {
				done <- -1
				return
			}
			defer s.Close()
			s.DefaultSignals()
			stamp := s.AddWords(0, uintptr(time.Millisecond))
			s.Do(unix.SYS_NANOSLEEP, stamp.Address, 0)
			s.exit(9)
			pid, pidfd := 0, -1
			if err = s.Finish(); err == nil {
				pid, pidfd, err = s.Start(vm)
			}
			if err != nil {
				done <- -1
				return
			}
			defer func() { _ = unix.Close(pidfd) }()
			var status unix.WaitStatus
			_, _ = unix.Wait4(pid, &status, 0, nil)
			done <- status.ExitStatus()
		}()
	}
	garbage := [][]byte{}
	for range children {
		garbage = append(garbage, make([]byte, 1<<20))
		if got := <-done; got != 9 {
			t.Errorf("exit %d", got)
		}
	}
	runtime.KeepAlive(garbage)
}

// What the kernel takes for a child, and for its namespaces.
// What is no control group is refused, and nobody is started.
func TestStartInGroup(t *testing.T) {
	s := fresh(t)
	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	folder, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(folder)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if pid, pidfd, err := s.StartInGroup(vm, folder); pid != 0 || pidfd != -1 || !errors.Is(err, unix.EBADF) {
		t.Errorf("%d, %d, %v", pid, pidfd, err)
	}
}

func BenchmarkClone(b *testing.B) {
	const rest = unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	for _, bench := range []struct {
		name  string
		flags uintptr
	}{{"none", 0}, {"all-but-net", rest}, {"all", rest | unix.CLONE_NEWNET}} {
		b.Run(bench.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for range b.N {
				b.StopTimer()
				s, err := New()
				if err != nil {
					b.Fatal(err)
				}
				s.DefaultSignals()
				s.exit(0)
				if err := s.Finish(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				pid, pidfd, err := s.Start(vm | bench.flags)
				b.StopTimer()
				if err != nil {
					b.Skip(err)
				}
				_, _ = unix.Wait4(pid, nil, 0, nil)
				_ = unix.Close(pidfd)
				s.Close()
				b.StartTimer()
			}
		})
	}
}
