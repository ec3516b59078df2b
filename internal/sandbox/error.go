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
	Errno syscall.Errno // 0: the step was refused by us, Cure says why
	Cure  string        // "" when we know none
}

func (e *StepError) Error() string {
	text := e.Step
	if e.Path != "" {
		text += " " + e.Path
	}
	if e.Errno != 0 {
		text += ": " + e.Errno.Error()
	}
	if e.Cure != "" {
		text += ": " + e.Cure
	}
	return text
}

func (e *StepError) Unwrap() error {
	if e.Errno == 0 {
		return fs.ErrInvalid
	}
	return e.Errno
}
