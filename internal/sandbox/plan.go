package sandbox

import (
	"activator/internal/sandbox/seccomp"
	"activator/internal/spec"
)

// Plan is a [spec.Sandbox] resolved against the running host: everything that is done, in
// order.
type Plan struct {
	Hostname string  // in the new uts namespace
	Entries  []Entry // what stands in the root, parents first
	Keep     uint64  // capabilities that stay, bit n for number n
	NewPrivs bool    // leave no_new_privs alone

	Filter   []byte // of system calls, a struct sock_filter after the other; nil: none
	Listener bool   // the filter asks a supervisor
	Keys     bool   // keyctl(2) is not refused
	Landlock Landlock
}

// NewPlan looks at the host and says what the sandbox of a service called name
// consists of. The program, an absolute path, is made visible when the default
// root does not show it; without a slash it is looked up inside, later.
func NewPlan(s spec.Sandbox, name, program string, directories []spec.Mount) (*Plan, error) {
	if err := checkWords(s); err != nil {
		return nil, err
	}
	keep, err := capabilityMask(s.Capabilities)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Hostname: hostName(s, name), Keep: keep, NewPrivs: s.NewPrivs}
	if plan.Entries, err = listEntries(s, program, directories); err != nil {
		return nil, err
	}
	for i := range plan.Entries {
		if err := plan.Entries[i].lookAtSource(); err != nil {
			return nil, err
		}
	}
	addRestrictions(s, plan, landlockABI())
	return plan, nil
}

// capabilityMask is the set of the named capabilities, bit n for number n.
func capabilityMask(names []string) (uint64, error) {
	var mask uint64
	for _, name := range names {
		number, ok := spec.ParseCapability(name)
		if !ok {
			return 0, &StepError{Step: "capability", Path: name, Cure: "no such capability, see capabilities(7)"}
		}
		mask |= 1 << number
	}
	return mask, nil
}

// checkWords refuses words that mean nothing.
func checkWords(s spec.Sandbox) error {
	switch s.Connect {
	case "", "none", "unix", "any":
	default:
		return &StepError{Step: "connect", Path: s.Connect, Cure: `it is "none", "unix" or "any"`}
	}
	switch s.Syscalls {
	case "", "default", "any":
	default:
		return &StepError{Step: "syscalls", Path: s.Syscalls, Cure: `it is "default" or "any"`}
	}
	return nil
}

// addRestrictions computes here what the child only loads.
func addRestrictions(s spec.Sandbox, plan *Plan, landlock int) {
	plan.Filter = seccomp.NewProfile(s, plan.Keep, landlock >= abiTCP).Filter()
	plan.Listener, plan.Keys = s.Supervised(), s.Syscalls == "any"
	plan.Landlock = chooseLandlock(s, landlock, plan.Entries)
}

func hostName(s spec.Sandbox, name string) string {
	if s.Hostname != "" {
		name = s.Hostname
	}
	return name[:min(len(name), 64)] // __NEW_UTS_LEN
}
