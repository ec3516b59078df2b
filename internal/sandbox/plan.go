package sandbox

import (
	"activator/internal/sandbox/seccomp"
	"activator/internal/spec"
)

// Plan is a [spec.Sandbox] resolved against the running host: everything that is done, in
// order.
type Plan struct {
	hostname string      // in the new uts namespace
	entries  []rootEntry // what stands in the root, parents first
	keep     uint64      // capabilities that stay, bit n for number n
	newPrivs bool        // leave no_new_privs alone

	profile  seccomp.Profile
	filter   []byte       // of system calls, a struct sock_filter after the other; nil: none
	Listener bool         // the filter asks a supervisor
	keys     bool         // keyctl(2) is not refused
	limits   []spec.Limit // of the user namespace
	landlock landlockRules
}

// NewPlan looks at the host and says what the sandbox of a service called name
// consists of. The program, an absolute path, is made visible when the default
// root does not show it; without a slash it is looked up inside, later.
func NewPlan(s spec.Sandbox, name, program string, directories []spec.Mount, inside Inside) (*Plan, error) {
	if err := checkWords(s); err != nil {
		return nil, err
	}
	keep, err := capabilityMask(s.Capabilities)
	if err != nil {
		return nil, err
	}
	plan := &Plan{hostname: hostName(s, name), keep: keep, newPrivs: s.NewPrivs}
	if plan.entries, err = listEntries(s, program, directories, inside); err != nil {
		return nil, err
	}
	for i := range plan.entries {
		if err := plan.entries[i].lookAtSource(); err != nil {
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
	plan.profile = seccomp.NewProfile(s, plan.keep, landlock >= abiTCP)
	plan.filter = plan.profile.Filter()
	plan.Listener, plan.keys = s.Supervised() && plan.filter != nil, s.Syscalls == "any"
	plan.landlock = chooseLandlock(s, landlock, plan.entries)
}

func hostName(s spec.Sandbox, name string) string {
	if s.Hostname != "" {
		name = s.Hostname
	}
	return name[:min(len(name), 64)] // __NEW_UTS_LEN
}

// Sources are the files and folders of the host that the plan mounts, without devices, and copied the files of which it has
// a copy.
func (p *Plan) Sources() (mounted, copied []string) {
	for _, entry := range p.entries {
		switch entry.Kind {
		case entryReadOnly, entryWritable:
			mounted = append(mounted, entry.Source)
		case entryText:
			copied = append(copied, entry.Source)
		}
	}
	return mounted, copied
}

// FindRefusal is what the filter says of a system call, by its number, its machine's AUDIT_ARCH_* and its arguments.
func (p *Plan) FindRefusal(number, machine uint32, args [6]uint64) spec.Refusal {
	return p.profile.FindRefusal(seccomp.Call{Number: number, Machine: machine, Args: args})
}
