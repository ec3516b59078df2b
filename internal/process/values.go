package process

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// NotifyPath is where the notification socket stands in a sandbox.
const NotifyPath = "/run/.notify"

// SyslogPath is where programs look for syslog(3) in a sandbox: a link to syslogPath.
const (
	SyslogPath = "/dev/log"
	syslogPath = "/run/.log"
)

// Client says whether a process has a client already when it is prepared.
type Client uint8

// The process waits for [Process.Release], where nothing else is said.
const (
	ClientExpected Client = iota // soon
	ClientWaiting                // the process does not wait for Release, but where it reports behind a supervisor
	ClientAbsent                 // it may be long until Release: what is taken from the host is noted, for [Process.IsFresh]
)

// StepError is a step on the way to the program that was refused.
type StepError = sandbox.StepError

// AddCure adds the cure to an error that tells of a shortage of descriptors.
func AddCure(err error) error { return sandbox.AddCure(err) }

// childName is argv[0] of a reaper: the activator's own binary. It is also the name,
// in ps(1), of a child that has not become the program yet.
const childName = "activator-stage"

// exitFailed is the status of a child that could not become the program; we know
// why.
const exitFailed = 125

// helperEnv is the environment of the activator's own processes, not the program's.
// They do little, on one thread: no garbage collection, and no second processor,
// which costs the runtime 0.2 ms to set up.
func helperEnv() []string {
	env := []string{"GOGC=off", "GOMAXPROCS=1"}
	if race, ok := os.LookupEnv("GORACE"); ok {
		env = append(env, "GORACE="+race)
	}
	return env
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.EIO
}

// fdOf is the descriptor of f, which its owner keeps open until we return.
func fdOf(f *os.File, null int) int {
	number := null
	if f != nil {
		_ = fd.Control(f, func(fd int) error {
			number = fd
			return nil
		})
	}
	return number
}

func goneError(err error) error {
	return &StepError{Step: "hand", Errno: errnoOf(err), Cure: "the sandbox is gone: was it killed while it waited?"}
}

// placesOf are the numbers of the socket that is brought.
func placesOf(h spec.Handed) []int {
	if h == spec.LaterStdio {
		return []int{0, 1}
	}
	return []int{3}
}

// replaceEntries is env with the entries of more, and without others of their names.
func replaceEntries(env, more []string) []string {
	return slices.Concat(slices.DeleteFunc(slices.Clone(env), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.ContainsFunc(more, func(m string) bool { return strings.HasPrefix(m, name+"=") })
	}), more)
}
