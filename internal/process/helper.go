package process

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/process/guard"
)

// What execve keeps are properties of a thread: in an init the main goroutine is on
// the main thread, and stays there.
func init() {
	if IsHelper() {
		runtime.LockOSThread()
	}
}

// IsHelper reports whether this process was started as a reaper, or as the guard.
func IsHelper() bool { return len(os.Args) == 2 && os.Args[0] == childName || guard.IsGuard() }

// RunHelper runs a reaper or the guard, as [IsHelper] says, and never returns. It is the first
// statement of main: a binary that knew only one of the two would start itself without end.
//
// A reaper is restricted already. It reads its plan, waits for msgGo, and starts the program as
// its child. It logs nothing.
func RunHelper() {
	if guard.IsGuard() {
		guard.RunGuard()
	}
	control, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(exitFailed)
	}
	s := reaperProcess{control: os.NewFile(uintptr(control), "control")}
	err = s.runReaper()
	if err != io.EOF { // at end of file the activator is gone
		s.reportFailure(err)
	}
	os.Exit(exitFailed)
}

func (s *reaperProcess) runReaper() error {
	// Nothing but 0, 1 and 2 goes on by accident; the sockets are marked last.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return &StepError{Step: "start", Errno: errnoOf(err), Cure: "Linux 5.15 is needed"}
	}
	// We run as the service's user: no process of it may look into us, or at the
	// activator's binary through our /proc/PID/exe.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return &StepError{Step: "init", Errno: errnoOf(err)}
	}
	var err error
	if s.plan, err = readPlan(s.control); err != nil {
		return err
	}
	if _, err := s.control.Write([]byte{msgReady}); err != nil {
		return io.EOF
	}
	if err := s.awaitRelease(); err != nil {
		return err
	}
	return s.keepProgram()
}

// reportFailure sends the parent an error.
func (s *reaperProcess) reportFailure(err error) {
	var refusal *StepError
	if !errors.As(err, &refusal) {
		refusal = &StepError{Step: "init", Errno: errnoOf(err), Cure: err.Error()}
	}
	text, _ := json.Marshal(refusal)
	_, _ = s.control.Write(append([]byte{msgError}, text...))
}

// CloseInherited keeps descriptors that this process was started with, and that
// nobody told it about, from going on to its children: it is to be called before
// anything else is opened. An error of close_range(2) says that the kernel is
// older than 5.11; the first child, which does the same, then says so.
func CloseInherited() {
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}
