package sandbox

import (
	"io/fs"
	"syscall"
)

// StepError is a step on the way to the program that the kernel or the host
// refused: which step, on which path, with which errno, and what the user can
// do about it.
type StepError struct {
	Step  string        // "clone", "mount", "open", "exec", ...
	Path  string        // the object of the step; "" has none
	Errno syscall.Errno // 0: the step was refused by us

	Reason string // says more than Errno; "": Cure says it too
	Cure   string // "" when we know none
}

func (e *StepError) Error() string {
	text := e.Step
	if e.Path != "" {
		text += " " + e.Path
	}
	if e.Errno != 0 {
		text += ": " + e.Errno.Error()
	}
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	if e.Cure == "" {
		return text
	}
	if e.Reason != "" {
		return text + "; " + e.Cure
	}
	return text + ": " + e.Cure
}

func (e *StepError) Unwrap() error {
	if e.Errno == 0 {
		return fs.ErrInvalid
	}
	return e.Errno
}
