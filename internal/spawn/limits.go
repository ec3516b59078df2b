package spawn

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/nofile"
)

// resources are the names of limits.conf(5), with the rest of getrlimit(2). No
// map: the reaper and the guard would fill it at every start.
var resources = [...]struct {
	name   string
	number int
}{
	{"as", unix.RLIMIT_AS}, {"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA},
	{"fsize", unix.RLIMIT_FSIZE}, {"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK},
	{"msgqueue", unix.RLIMIT_MSGQUEUE}, {"nice", unix.RLIMIT_NICE}, {"nofile", unix.RLIMIT_NOFILE},
	{"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS}, {"rtprio", unix.RLIMIT_RTPRIO},
	{"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING}, {"stack", unix.RLIMIT_STACK},
}

func resource(name string) (number int, err error) {
	for _, r := range resources {
		if r.name == name {
			return r.number, nil
		}
	}
	return 0, &StageError{Step: "limit", Path: name, Cure: "no such resource, see limits.conf(5)"}
}

// raiseLimits lifts the hard limits of a child that its plan exceeds. It takes
// privilege on the host, which the child no longer has; the child sets the rest itself, last,
// because a small limit would already hinder it.
func raiseLimits(pid int, limits []Limit) error {
	for _, limit := range limits {
		number, err := resource(limit.Resource)
		if err != nil {
			return err
		}
		var now unix.Rlimit
		if err := unix.Prlimit(pid, number, nil, &now); err != nil {
			return &StageError{Step: "limit", Path: limit.Resource, Errno: errnoOf(err)}
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

func limitRefused(resource string, errno syscall.Errno, most uint64) *StageError {
	return &StageError{Step: "limit", Path: resource, Errno: errno,
		Cure: fmt.Sprintf("the hard limit here is %s; more takes root with CAP_SYS_RESOURCE, or a higher limit for the activator itself", amount(most))}
}

// limits adds two, where the specification says nothing of them.
//
// The soft limit of descriptors is as we were started with, not as the runtime has
// raised it for us.
//
// No core is dumped: what a crash leaves on the host, at a path or in a program of the
// host's, is the service's memory and made by it. 1 and not 0, which a core_pattern with
// a pipe ignores (core(5), do_coredump in fs/coredump.c).
func (s *Spec) limits() []Limit {
	limits := slices.Clone(s.Limits)
	given := func(resource string) bool {
		return slices.ContainsFunc(s.Limits, func(l Limit) bool { return l.Resource == resource })
	}
	var now unix.Rlimit
	if soft, ok := nofile.Started(); ok && !given("nofile") && unix.Getrlimit(unix.RLIMIT_NOFILE, &now) == nil && soft < now.Cur {
		limits = append(limits, Limit{"nofile", soft, now.Max})
	}
	if s.Bare || given("core") {
		return limits
	}
	most := uint64(1)
	if unix.Getrlimit(unix.RLIMIT_CORE, &now) == nil {
		most = min(most, now.Max)
	}
	return append(limits, Limit{"core", most, most})
}

func amount(n uint64) string {
	if n == ^uint64(0) {
		return "unlimited"
	}
	return fmt.Sprint(n)
}
