package sockfilter

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Error says what stands between this process and sealed sockets.
type Error struct {
	Step string // what was tried
	Err  error  // what the kernel said
	Cure string // how to get it; "" when we know none
}

func (e *Error) Error() string {
	text := e.Step + ": " + e.Err.Error()
	if e.Cure != "" {
		text += ": " + e.Cure
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// newStepError makes an Error of err with what we know about its cure.
func newStepError(step string, err error) error {
	var known *Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return &Error{Step: step, Err: err, Cure: findCure(step, err)}
}

// The steps, as they stand in an error.
const (
	stepRights   = "capabilities"
	stepMount    = "cgroup v2"
	stepGroup    = "own cgroup"
	stepNewGroup = "cgroup for sockets"
	stepTables   = "table of peers"
	stepPrograms = "BPF program"
	stepAttach   = "attach BPF program"
	stepSockets  = "sockets of the cgroup"
	stepTrial    = "trial of the seal"
)

// findCure knows what mostly is behind an errno at a step.
func findCure(step string, err error) string {
	is := func(errnos ...error) bool {
		for _, errno := range errnos {
			if errors.Is(err, errno) {
				return true
			}
		}
		return false
	}
	switch {
	case is(unix.EPERM, unix.EACCES) && step == stepMount:
		return "run the activator as root with CAP_SYS_ADMIN (in a container also outside AppArmor's and seccomp's rules against mounting)"
	case is(unix.ENODEV) && step == stepMount:
		return "a kernel with CONFIG_CGROUPS is needed"
	case is(unix.EPERM, unix.EACCES) && step == stepAttach:
		return "CAP_NET_ADMIN is needed, and no program on a cgroup above that forbids others below it"
	case is(unix.EPERM, unix.EACCES) && (step == stepTables || step == stepPrograms):
		return "CAP_BPF and CAP_NET_ADMIN are needed, and a kernel that is not locked down"
	case is(unix.ENOSYS, unix.EINVAL) && (step == stepTables || step == stepPrograms || step == stepAttach):
		return "Linux 5.15 with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF is needed"
	case is(unix.ENOMEM) && (step == stepTables || step == stepPrograms):
		return "raise the memory limit of the activator's cgroup: a table of 8192 peers takes 0.8 MB"
	case is(unix.EAGAIN) && step == stepNewGroup:
		return "raise cgroup.max.descendants or cgroup.max.depth of the cgroup above"
	case is(unix.EPERM, unix.EACCES) && step == stepNewGroup:
		return "the activator's cgroup must be its own to divide: Delegate=yes in a systemd unit"
	case is(unix.EAGAIN) && step == stepSockets:
		return "raise the limit of processes (TasksMax=, pids.max, RLIMIT_NPROC)"
	case is(unix.ENOSYS) && step == stepSockets:
		return "clone3 is refused, by a seccomp profile older than 2021: update the container engine"
	case is(unix.EOPNOTSUPP, unix.EBUSY) && step == stepSockets:
		return "the activator's cgroup is threaded or distributes resources, and so may hold no processes below it: give the activator a cgroup of its own"
	case is(unix.EMFILE, unix.ENFILE):
		return "raise the limit of open files (LimitNOFILE=, ulimit -n)"
	}
	return ""
}

// checkRights says which capability is missing before the kernel says just EPERM.
func checkRights() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return newStepError(stepRights, os.NewSyscallError("capget", err))
	}
	for _, c := range []struct {
		number int
		name   string
	}{{unix.CAP_BPF, "CAP_BPF"}, {unix.CAP_NET_ADMIN, "CAP_NET_ADMIN"}, {unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}} {
		if data[c.number/32].Effective&(1<<(c.number%32)) != 0 {
			continue
		}
		e := &Error{Step: stepRights, Err: missing(c.name), Cure: "run the activator as root"}
		if os.Geteuid() == 0 {
			e.Cure = "give the container or virtual machine the capability"
		}
		return e
	}
	return nil
}

// missing is the name of a capability that we lack.
type missing string

func (m missing) Error() string        { return "without " + string(m) }
func (m missing) Is(target error) bool { return target == os.ErrPermission }
