package spawn

import (
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/sandbox"
)

// reaper stays as pid 1 of the sandbox (or, bare, as subreaper) and execs the program in a
// child, so that LISTEN_PID is the program's own. It passes on signals, waits for everybody
// who has nobody else, and ends as the program did, 128+n for signal n. The
// control socket stays open: its end of file is the order, or the activator's
// death, that ends everything.
//
// In a sandbox the walls are up already, around all threads of the reaper too, and the program
// gets them from it. So pid 1 is worth nothing to who takes it over, and he may not debug us:
// we are not dumpable, so that takes CAP_SYS_PTRACE and syscalls = "any".
func (s *stage) reaper() error {
	debug.SetGCPercent(100) // our environment turned it off
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	if s.bare() {
		// What the program leaves behind comes to us; and we must outlive the
		// activator for as long as it takes to end it.
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return &StageError{Step: "init", Errno: errnoOf(err)}
		}
		if err := unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0); err != nil {
			return &StageError{Step: "init", Errno: errnoOf(err)}
		}
	}
	program, err := s.inner()
	if err == nil {
		_, err = s.control.Write([]byte{wordKept})
		if err != nil { // the activator died in between
			err = io.EOF
		}
	}
	if err != nil {
		if s.bare() {
			killRest()
		}
		return err
	}
	go forward(signals, program)
	go s.lifeline(program)
	code := s.reap(program)
	switch {
	case s.plan.Engine:
		if s.awaitRest(); s.ending.Load() {
			code = exitStage // it has not cleaned up
		}
	case s.bare():
		killRest()
	}
	os.Exit(code)
	return nil
}

func (s *stage) bare() bool { return s.plan.Bare }

// inner starts the program, and returns its pid once it has exec'ed.
func (s *stage) inner() (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, sandbox.OpenError("init: socketpair", "", err)
	}
	inside := descriptor(pair[0])
	defer func() { _ = unix.Close(pair[0]) }()
	list, pid, err := s.clone(pair[1])
	_ = unix.Close(pair[1])
	if err != nil {
		return 0, err
	}
	defer list.Close()
	for socket := 3; socket < 3+s.plan.Sockets; socket++ {
		_ = unix.Close(socket)
	}
	if _, err := inside.Write([]byte{wordGo}); err != nil {
		return 0, &StageError{Step: "init", Errno: errnoOf(err)}
	}
	var word [1]byte
	if _, err := inside.Read(word[:]); closed(err) && list.execed() {
		return pid, nil
	}
	if err := list.Failure(); err != nil {
		return 0, err
	}
	return 0, &StageError{Step: "init", Errno: syscall.ECHILD, Cure: "the program was killed before it began"}
}

// clone starts the child, which waits for a word at its end of the conversation,
// and tells it what is known only now.
func (s *stage) clone(theirs int) (*steps, int, error) {
	list, err := newSteps()
	if err != nil {
		return nil, 0, err
	}
	list.root = func() string { return "/" }
	list.moveControl(theirs)
	list.hear()
	if err = list.enter(s.plan); err == nil {
		err = list.Finish()
	}
	pid, pidfd := 0, -1
	if err == nil {
		pid, pidfd, err = list.Start(unix.CLONE_VM)
	}
	if err == nil {
		defer func() { _ = unix.Close(pidfd) }()
		var env []string
		if env, err = s.plan.environ(pid, pidfd); err == nil {
			err = list.tell(env)
		}
	}
	if err != nil { // who waits already ends with us
		list.Close()
		return nil, 0, err
	}
	return list, pid, nil
}

// forward passes on what we are sent. SIGURG is the Go runtime's own.
func forward(signals <-chan os.Signal, program int) {
	for received := range signals {
		if sig, ok := received.(syscall.Signal); ok && sig != syscall.SIGCHLD && sig != syscall.SIGURG {
			_ = unix.Kill(program, sig)
		}
	}
}

// lifeline ends everything when the activator says so or is gone.
func (s *stage) lifeline(program int) {
	var word [1]byte
	_, _ = s.control.Read(word[:])
	if !s.bare() {
		os.Exit(exitStage) // pid 1 of its namespace: the kernel kills the rest
	}
	if s.plan.Engine {
		s.endRest() // also when the engine has ended, and only the rest is waited for
		return
	}
	_ = unix.Kill(program, unix.SIGKILL)
}

// reap waits for whoever ends until the program does.
func (s *stage) reap(program int) (code int) {
	for {
		pid, status, err := fd.Reap(-1)
		s.reaped()
		switch {
		case err != nil:
			return exitStage
		case pid == program && status.Exited():
			return status.ExitStatus()
		case pid == program && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// restPatience is how long an engine's monitor may take to clean up.
const restPatience = 10 * time.Second

// awaitRest waits for what an engine has left behind: its monitor, which cleans up after
// the container. What is there for longer than it may take is killed.
func (s *stage) awaitRest() {
	time.AfterFunc(restPatience, s.endRest)
	for {
		if _, _, err := fd.Reap(-1); err != nil {
			return
		}
		s.reaped()
	}
}

// endRest kills our children, and those that become ours as these are reaped.
func (s *stage) endRest() {
	s.ending.Store(true)
	killChildren()
}

// reaped follows each reaping: those of the one that has ended are our children now.
func (s *stage) reaped() {
	if s.ending.Load() {
		killChildren()
	}
}

func killChildren() {
	for _, child := range children() {
		_ = unix.Kill(child, unix.SIGKILL)
	}
}

// killRest kills our children until there are none: those of a killed one become
// ours.
func killRest() {
	for {
		killChildren()
		if _, _, err := fd.Reap(-1); err != nil {
			return
		}
	}
}

// children lists our own.
func children() []int {
	self := strconv.Itoa(os.Getpid())
	return slices.DeleteFunc(proc.Pids(), func(pid int) bool {
		status, err := proc.Status(pid)
		return err != nil || status["PPid"] != self
	})
}
