package process

import (
	"activator/internal/sandbox"
)

// Client says whether a process has a client already when it is prepared.
type Client uint8

// Without a word it is waited for [Process.Release].
const (
	ClientExpected Client = iota // soon
	ClientWaiting                // the process does not wait for Release, but where it reports behind a supervisor
	ClientAbsent                 // it may be long until Release: what is taken from the host is noted, for [Process.IsFresh]
)

// StepError is a step on the way to the program that was refused.
type StepError = sandbox.StepError

// AddCure adds the cure to an error that tells of a shortage of descriptors.
func AddCure(err error) error { return sandbox.AddCure(err) }
