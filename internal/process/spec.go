package process

import (
	"activator/internal/sandbox"
)

// Client says whether a process has a client already when it is prepared.
type Client uint8

// Without a word it is waited for [Process.Release].
const (
	Expected Client = iota // soon
	There                  // the process does not wait for Release, but where it reports behind a supervisor
	Absent                 // it may be long until Release: what is taken from the host is noted, for [Process.Fresh]
)

// StageError is a step on the way to the program that was refused.
type StageError = sandbox.StepError

// Cured adds the cure to an error that tells of a shortage of descriptors.
func Cured(err error) error { return sandbox.Cured(err) }
