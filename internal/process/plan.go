package process

import (
	"slices"

	"activator/internal/fdpass"
	"activator/internal/spec"
)

// plan is a specification, complete. A reaper is sent what of it comes after the restrictions.
type plan struct {
	spec.Process
	Sockets int
	Engine  bool // what the program leaves behind is given time to end
}

// completeEnv completes the environment with what only now is known: the program's number
// as it sees it itself, and a pidfd of it, which is lent.
func (p *plan) completeEnv(pid, pidfd int) ([]string, error) {
	env := p.Env
	if p.Watchdog > 0 && !p.Engine { // an engine is no program that could tell
		env = slices.Concat(env, watchdogEnviron(p.Watchdog, pid))
	}
	if p.Sockets == 0 {
		return env, nil
	}
	listen, err := fdpass.MakeEnviron(p.FDNames, pid, pidfd)
	if err != nil {
		return nil, &StepError{Step: "LISTEN_FDS", Errno: errnoOf(err), Cure: err.Error()}
	}
	return slices.Concat(env, listen), nil
}
