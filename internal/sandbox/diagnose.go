package sandbox

import (
	"errors"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// Where the kernel and its friends say what is allowed, see user_namespaces(7),
// namespaces(7) and https://ubuntu.com/blog/ubuntu-23-10-restricted-unprivileged-user-namespaces.
const (
	sysctlClone    = "kernel.unprivileged_userns_clone"             // Debian's and its children's
	sysctlAppArmor = "kernel.apparmor_restrict_unprivileged_userns" // Ubuntu 23.10 and later
	sysctlUsers    = "user.max_user_namespaces"
)

// The cures that more than one place tells.
const (
	cureClone    = "user namespaces are off for ordinary users here: sysctl -w " + sysctlClone + "=1"
	cureUsers    = "user namespaces are off here: sysctl -w " + sysctlUsers + "=10000"
	cureAppArmor = "AppArmor restricts user namespaces here (" + sysctlAppArmor + "=1): give the activator a profile with \"userns,\", or sysctl -w " + sysctlAppArmor + "=0"
	cureSeccomp  = "a seccomp filter on the activator itself (Docker's default profile?) refuses it: run the container with --security-opt seccomp=unconfined"
	cureChroot   = "in a chroot the kernel makes no user namespace: start the activator outside of it, or make the folder a root by pivot_root(8)"
	cureKernel   = "Linux 5.15 or later is needed"
)

// CloneError explains why the kernel refused a new process its namespaces.
func CloneError(err error) error { return NewError("clone", "", err) }

// findCure is the best explanation we have for errno at step: a reason, where that says more, and
// a cure.
func findCure(step, path string, errno syscall.Errno) (reason, cure string) {
	switch {
	case errno == syscall.ENOSYS:
		return "", cureKernel
	case step == "clone":
		return cureOfClone(errno)
	case step == "seccomp" && errno == syscall.EINVAL:
		return "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)", "without them only seal = \"off\", connect = \"any\", syscalls = \"any\" work"
	case step == "seccomp" && errno == syscall.EBUSY:
		return "", "the activator itself is under a filter with a supervisor, and Linux allows but one: connect = \"none\" needs none"
	case step == "landlock" && errno == syscall.E2BIG:
		return "", "16 Landlock sandboxes within each other are the most: start the activator from fewer"
	case step == "mount" && path == "/proc" && errno == syscall.EPERM:
		return cureOfProc()
	case step == "open", step == "mount":
		if reason, cure := cureOfPath(errno); cure != "" {
			return reason, cure
		}
	case step == "root" && (errno == syscall.ENOENT || errno == syscall.ENOTDIR):
		return "", "the root must be an existing folder"
	case step == "pivot" && errno == syscall.EINVAL:
		return "the root file system cannot be left", "is it an initramfs? Boot into a real root"
	}
	if errno == syscall.EPERM || errno == syscall.EACCES {
		return refusedBy()
	}
	return "", ""
}

func cureOfClone(errno syscall.Errno) (reason, cure string) {
	switch errno {
	case syscall.ENOSPC:
		if off := namespacesOff(); off != "" {
			return "", off
		}
		return "", "a limit on namespaces is reached, see /proc/sys/user/max_*_namespaces and namespaces(7)"
	case syscall.EUSERS:
		return "", "too many user namespaces within each other"
	case syscall.EINVAL:
		return "", "this kernel lacks one of the namespaces user, net, pid, mnt, ipc, uts, cgroup (CONFIG_*_NS)"
	case syscall.EAGAIN:
		return "", "the limit on processes is reached (ulimit -u, or the cgroup's pids.max)"
	case syscall.ENOENT:
		return "", "is /proc mounted?"
	case syscall.EPERM, syscall.EACCES:
		return refusedBy()
	}
	return "", ""
}

// namespacesOff is the cure where there can be no namespaces of some kind, namespaces(7);
// "" where there can.
func namespacesOff() string {
	for _, kind := range []string{"user", "net", "pid", "mnt", "ipc", "uts", "cgroup"} {
		if name := "user.max_" + kind + "_namespaces"; proc.ReadSysctl(name) == "0" {
			return kind + " namespaces are off here: sysctl -w " + name + "=10000"
		}
	}
	return ""
}

// refusedBy names what is known to refuse namespaces, and what belongs to
// having them, with EPERM. AppArmor lets the clone pass and refuses only later.
func refusedBy() (reason, cure string) {
	switch {
	case proc.ReadSysctl(sysctlClone) == "0":
		return "", cureClone
	case proc.ReadSysctl(sysctlUsers) == "0":
		return "", cureUsers
	case proc.ReadSysctl(sysctlAppArmor) == "1":
		return "", cureAppArmor
	case isChrooted():
		return "", cureChroot
	case isFiltered():
		return "", cureSeccomp
	}
	return "this host or container refuses new namespaces to us", "look for a security module or a policy of the container's that does"
}

func cureOfProc() (reason, cure string) {
	if over := overProc(); len(over) > 0 {
		return "", cureOfCover(over)
	}
	return refusedBy()
}

// cureOfCover is the cure of mounts over /proc.
func cureOfCover(over []string) string {
	return "a fresh /proc is refused because other mounts cover parts of ours (" + strings.Join(over, " ") +
		"), as in a container: run it with --security-opt unmask=ALL (podman) or --security-opt systempaths=unconfined (docker)"
}

func cureOfPath(errno syscall.Errno) (reason, cure string) {
	switch errno {
	case syscall.ENOENT:
		return "", "it does not exist on the host"
	case syscall.EACCES:
		return "", "the user who starts the service may not reach it"
	case syscall.ENOTDIR, syscall.EINVAL:
		return "", "a folder goes on a folder and a file on a file"
	case syscall.ELOOP:
		return "too many symbolic links", "or one has just been put where others than we may write"
	}
	return "", ""
}

// isChrooted reports whether our root is no mount's, as after chroot(2): the kernel makes no user namespace for
// such a process, user_namespaces(7).
func isChrooted() bool {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter("/"))
	return err == nil && len(mounts) == 0
}

// isFiltered reports whether we are under a seccomp filter.
func isFiltered() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil && mode == unix.SECCOMP_MODE_FILTER
}

// overProc lists what is mounted over parts of /proc. The kernel does not mind
// two directories that are always empty (mnt_already_visible in fs/namespace.c).
func overProc() []string {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter("/proc"))
	if err != nil {
		return nil
	}
	var over []string
	for _, m := range mounts {
		if m.Mountpoint != "/proc" && m.Mountpoint != "/proc/sys/fs/binfmt_misc" && m.Mountpoint != "/proc/fs/nfsd" {
			over = append(over, m.Mountpoint)
		}
	}
	return over
}

// NewError makes a StepError of err with what we know about its cure.
func NewError(step, path string, err error) *StepError {
	var known *StepError
	if errors.As(err, &known) {
		return known
	}
	var link *fd.LinkError
	if errors.As(err, &link) {
		return &StepError{Step: step, Path: path, Errno: syscall.ELOOP, Reason: link.Reason(), Cure: link.Advice()}
	}
	errno := syscall.EIO
	if !errors.As(err, &errno) && errors.Is(err, os.ErrNotExist) {
		errno = syscall.ENOENT
	}
	reason, cure := findCure(step, path, errno)
	return &StepError{Step: step, Path: path, Errno: errno, Reason: reason, Cure: cure}
}

// Passing reports whether the refusal may be of the moment alone: something was used up.
func (e *StepError) Passing() bool {
	switch e.Errno {
	case syscall.EAGAIN, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.EINTR:
		return true
	case syscall.ENOSPC:
		return namespacesOff() == ""
	}
	return false
}

// refusePoint is the error of a mount point that we would have to make in what is the
// host's.
func refusePoint(name string) *StepError {
	return &StepError{Step: "mount point", Path: name, Errno: unix.ENOENT,
		Cure: "create it in " + path.Dir(name) + " on the host, or mount at a path outside of it"}
}
