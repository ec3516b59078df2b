package process

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

func resourceNumber(l spec.Limit) (number int, err error) {
	number, known := l.Number()
	if !known {
		return 0, &StepError{Step: "limit", Path: l.Resource, Cure: "no such resource, see limits.conf(5)"}
	}
	return number, nil
}

// raiseLimits lifts the hard limits of a child that its plan exceeds. It takes
// privilege on the host, which the child no longer has; the child sets the rest itself, last,
// because a small limit would already hinder it.
func raiseLimits(pid int, limits []spec.Limit) error {
	for _, limit := range limits {
		number, err := resourceNumber(limit)
		if err != nil {
			return err
		}
		var now unix.Rlimit
		if err := unix.Prlimit(pid, number, nil, &now); err != nil {
			return &StepError{Step: "limit", Path: limit.Resource, Errno: errnoOf(err)}
		}
		if limit.Hard <= now.Max {
			continue
		}
		raised := unix.Rlimit{Cur: now.Cur, Max: limit.Hard}
		if err := unix.Prlimit(pid, number, &raised, nil); err != nil {
			return limitRefused(limit.Resource, errnoOf(err), now.Max)
		}
	}
	return nil
}

func limitRefused(resource string, errno syscall.Errno, most uint64) *StepError {
	return &StepError{Step: "limit", Path: resource, Errno: errno,
		Reason: "the hard limit here is " + limitText(most),
		Cure:   "more takes root with CAP_SYS_RESOURCE, or a higher limit for the activator itself"}
}

// completeLimits adds two, where the specification says nothing of them.
//
// The soft limit of descriptors is not ours, which the runtime has raised to the hard one, and
// restores only in children that package syscall starts.
//
// No core is dumped: what a crash leaves on the host, at a path or in a program of the
// host's, is the service's memory and made by it. 1 and not 0, which a core_pattern with
// a pipe ignores (core(5), do_coredump in fs/coredump.c).
func completeLimits(s *spec.Process) []spec.Limit {
	limits := slices.Clone(s.Limits)
	given := func(resource string) bool {
		return slices.ContainsFunc(s.Limits, func(l spec.Limit) bool { return l.Resource == resource })
	}
	var now unix.Rlimit
	if !given("nofile") && unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil {
		limits = append(limits, spec.Limit{Resource: "nofile", Soft: min(spec.SoftDescriptors, now.Max), Hard: now.Max})
	}
	if s.Bare || given("core") {
		return limits
	}
	most := uint64(1)
	if unix.Getrlimit(unix.RLIMIT_CORE, &now) == nil {
		most = min(most, now.Max)
	}
	return append(limits, spec.Limit{Resource: "core", Soft: most, Hard: most})
}

func limitText(n uint64) string {
	if n == spec.Unlimited {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// MostArguments is how many bytes arguments and environment may have in all: a quarter of the
// stack's limit, bprm_stack_limits in the kernel's fs/exec.c.
func MostArguments(s spec.Process) int {
	const standard = 8 << 20
	stack := uint64(standard)
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_STACK, &now) == nil {
		stack = now.Cur
	}
	if i := slices.IndexFunc(s.Limits, func(l spec.Limit) bool { return l.Resource == "stack" }); i >= 0 {
		stack = s.Limits[i].Soft
	}
	return int(max(min(stack/4, standard/4*3), 128<<10))
}
