package process

import (
	"fmt"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/sandbox"
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

// completeLimits adds some, where the specification says nothing of them, and leaves out those of the namespace.
//
// The soft limit of descriptors is not ours, which the runtime has raised to the hard one, and
// restores only in children that package syscall starts. The hard one is below ours, and that of processes is, so that
// one service does not use up what all have together.
//
// No core is dumped: what a crash leaves on the host, at a path or in a program of the
// host's, is the service's memory and made by it. 1 and not 0, which a core_pattern with
// a pipe ignores (core(5), do_coredump in fs/coredump.c).
func completeLimits(s *spec.Process) []spec.Limit {
	limits := slices.DeleteFunc(slices.Clone(s.Limits), isNamespaced)
	given := func(resource string) bool {
		return slices.ContainsFunc(s.Limits, func(l spec.Limit) bool { return l.Resource == resource })
	}
	var now unix.Rlimit
	if !given("nofile") && unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil {
		limits = append(limits, spec.LimitDescriptors(now.Max))
	}
	if s.Bare {
		return limits
	}
	if !given("nproc") && unix.Getrlimit(unix.RLIMIT_NPROC, &now) == nil {
		limits = append(limits, spec.LimitProcesses(now.Max))
	}
	if given("core") {
		return limits
	}
	most := uint64(1)
	if unix.Getrlimit(unix.RLIMIT_CORE, &now) == nil {
		most = min(most, now.Max)
	}
	return append(limits, spec.Limit{Resource: "core", Soft: most, Hard: most})
}

func isNamespaced(l spec.Limit) bool {
	number, known := l.Number()
	return known && number == spec.NamespaceLimit
}

// namespaceShare is the part of what the owner of a service's user namespace may have that the service may.
const namespaceShare = 4

// limitNamespace lists what the user namespace of a service may have where the specification says
// nothing of it: a part of what its owner may. For all services of root that is root.
func limitNamespace(s *spec.Process) (limits []spec.Limit) {
	for _, resource := range spec.ListResources() {
		l := spec.Limit{Resource: resource}
		if !isNamespaced(l) {
			continue
		}
		if i := slices.IndexFunc(s.Limits, func(l spec.Limit) bool { return l.Resource == resource }); i >= 0 {
			limits = append(limits, s.Limits[i])
			continue
		}
		if most, err := strconv.ParseUint(proc.ReadSysctl(sandbox.NamespaceLimitName(resource)), 10, 64); err == nil {
			l.Soft, l.Hard = most/namespaceShare, most/namespaceShare
			limits = append(limits, l)
		}
	}
	return limits
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
