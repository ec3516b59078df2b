package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"activator/internal/kernel/fd"
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

// Passing reports whether the refusal may be of the moment alone: something was used up.
func (e *StepError) Passing() bool {
	switch e.Errno {
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR:
		return true
	case syscall.ENOSPC:
		return namespacesOff() == ""
	}
	return false
}

// stepError makes a StepError of err with what we know about its cure.
func stepError(step, path string, err error) *StepError {
	var known *StepError
	if errors.As(err, &known) {
		return known
	}
	errno := syscall.EIO
	if !errors.As(err, &errno) && errors.Is(err, os.ErrNotExist) {
		errno = syscall.ENOENT
	}
	return &StepError{Step: step, Path: path, Errno: errno, Cure: findCure(step, path, errno)}
}

// LinkError is the error of a path on which a link is not followed.
func LinkError(step, path string, link *fd.LinkError) *StepError {
	return &StepError{Step: step, Path: path, Errno: syscall.ELOOP,
		Cure: link.Says()}
}
