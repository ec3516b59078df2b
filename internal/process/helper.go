package process

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
	"activator/internal/process/guard"
)

// exitFailed is the status of a child that could not become the program; we know
// why.
const exitFailed = 125

// What execve keeps are properties of a thread: in an init the main goroutine is on
// the main thread, and stays there.
func init() {
	if IsHelper() {
		runtime.LockOSThread()
	}
}

// IsHelper reports whether this process was started as a reaper, or as the guard.
func IsHelper() bool { return len(os.Args) == 2 && os.Args[0] == childName || guard.IsGuard() }

// RunHelper is a reaper: it is shut in already, is told a plan, waits for the word to
// go, and has the program for a child. It never returns, and logs nothing. It must
// be the first statement of main. The guard goes the same way: a binary that knew
// only one of the two would start itself without end.
func RunHelper() {
	if guard.IsGuard() {
		guard.RunGuard()
	}
	control, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(exitFailed)
	}
	s := reaperProcess{control: descriptor(control)}
	err = s.runReaper()
	if err != io.EOF { // the activator is gone: nobody to tell
		s.reportFailure(err)
	}
	os.Exit(exitFailed)
}

type reaperProcess struct {
	control descriptor
	plan    *plan
}

func (s *reaperProcess) runReaper() error {
	// Nothing but 0, 1 and 2 goes on by accident; the sockets are marked last.
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return &StepError{Step: "start", Errno: errnoOf(err), Cure: "Linux 5.15 is needed"}
	}
	// We run as the service's user: nobody there may look into us, or at the
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

// reportFailure tells the parent.
func (s *reaperProcess) reportFailure(err error) {
	var refusal *StepError
	if !errors.As(err, &refusal) {
		refusal = &StepError{Step: "init", Errno: errnoOf(err), Cure: err.Error()}
	}
	text, _ := json.Marshal(refusal)
	_, _ = s.control.Write(append([]byte{msgError}, text...))
}

// descriptor is a blocking fd without the runtime's poller, which is another
// thread.
type descriptor int

func (d descriptor) Read(b []byte) (n int, err error) {
	err = fd.Again(func() (err error) {
		n, err = unix.Read(int(d), b)
		return err
	})
	switch {
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

func (d descriptor) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := fdpass.Send(int(d), b[written:])
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}
