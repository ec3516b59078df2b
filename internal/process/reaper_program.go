package process

import (
	"io"
	"os"
	"runtime/debug"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/process/reaper"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// keepProgram stays as pid 1 of the sandbox (or, bare, as subreaper) and execs the program in a
// child, so that LISTEN_PID is the program's own. The control socket stays open: its end of
// file is the order, or the activator's death, that ends everything.
//
// In a sandbox the restrictions are up already, around all threads of the reaper too, and the program
// gets them from it. So pid 1 is worth nothing to a program that takes it over, which may not debug us:
// we are not dumpable, so that takes CAP_SYS_PTRACE and syscalls = "any".
func (s *reaperProcess) keepProgram() error {
	debug.SetGCPercent(100) // our environment turned it off
	r, err := reaper.New(s.plan.Bare, s.plan.Engine)
	if err != nil {
		return &StepError{Step: "init", Errno: errnoOf(err)}
	}
	if !s.plan.Bare && s.plan.Handed == spec.AtStart {
		r.Serves = s.findServing()
	}
	program, err := s.startProgram()
	if err == nil {
		_, err = s.control.Write([]byte{msgRunning})
		if err != nil { // the activator died in between
			err = io.EOF
		}
	}
	if err != nil {
		r.KillRest()
		return err
	}
	os.Exit(r.AwaitEnd(program, s.control))
	return nil
}

// findServing returns a function that reports whether a process has one of the program's sockets: one that binds its own
// has been given none, and is told by having any.
func (s *reaperProcess) findServing() func(pid int) bool {
	var given []string
	for socket := 3; socket < 3+s.plan.Sockets; socket++ {
		if name, err := os.Readlink(fd.LinkOf(socket)); err == nil {
			given = append(given, name)
		}
	}
	return func(pid int) bool {
		return slices.ContainsFunc(proc.ListSockets(pid), func(name string) bool { return len(given) == 0 || slices.Contains(given, name) })
	}
}

// startProgram starts the program, and returns its pid once it has exec'ed.
func (s *reaperProcess) startProgram() (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, sandbox.OpenError("init: socketpair", "", err)
	}
	inside := os.NewFile(uintptr(pair[0]), "control")
	defer func() { _ = inside.Close() }()
	list, pid, err := s.cloneProgram(pair[1])
	_ = unix.Close(pair[1])
	if err != nil {
		return 0, err
	}
	defer list.Close()
	for socket := 3; socket < 3+s.plan.Sockets; socket++ {
		_ = unix.Close(socket)
	}
	if _, err := inside.Write([]byte{msgGo}); err != nil {
		return 0, &StepError{Step: "init", Errno: errnoOf(err)}
	}
	var word [1]byte
	if _, err := inside.Read(word[:]); isClosed(err) && list.hasExeced() {
		return pid, nil
	}
	if err := list.Failure(); err != nil {
		return 0, err
	}
	return 0, &StepError{Step: "init", Errno: syscall.ECHILD, Cure: "the program was killed before it began"}
}

// cloneProgram starts the child, which waits for a message at its end of the conversation,
// and completes its environment.
func (s *reaperProcess) cloneProgram(theirs int) (*callList, int, error) {
	list, err := newCallList()
	if err != nil {
		return nil, 0, err
	}
	list.root = func() string { return "/" }
	list.moveControl(theirs)
	list.awaitMessage()
	if err = list.execProgram(s.plan); err == nil {
		err = list.Finish()
	}
	pid, pidfd := 0, -1
	if err == nil {
		pid, pidfd, err = list.Start(unix.CLONE_VM)
	}
	if err == nil {
		defer func() { _ = unix.Close(pidfd) }()
		var env []string
		if env, err = s.plan.completeEnv(pid, pidfd); err == nil {
			err = list.writeEnv(env)
		}
	}
	if err != nil { // a child that waits already ends with us
		list.Close()
		return nil, 0, err
	}
	return list, pid, nil
}
