// Command oldkernel runs a program on this kernel without what older ones lack, for
// tests: a seccomp filter answers for it as such a kernel does. Nothing of
// the program is changed.
//
//	oldkernel 6.1 activator --config echo.toml
//	oldkernel landlock=0,bpf activator doctor
//	oldkernel landlock=7,pretend-landlock activator ...
//
// It takes a list of lacks, separated by commas; the first one may be a kernel's version,
// which stands for a list (see kernels). A lack named pretend-... has a call succeed that does nothing: a
// restriction is taken away, and a test sees what gets out then.
//
// It does not make a new kernel old: what both have is this kernel's. As an ordinary
// user the program has no_new_privs, prctl(2).
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "oldkernel:", err)
		os.Exit(125)
	}
}

func run() error {
	if len(os.Args) == 2 && os.Args[1] == answerer {
		return answer()
	}
	if len(os.Args) < 3 {
		return errors.New("usage: oldkernel LACKS PROGRAM [ARGUMENT...]")
	}
	l, err := parse(os.Args[1])
	if err != nil {
		return err
	}
	if abi := landlockABI(); l.landlock > abi {
		return fmt.Errorf("this kernel's Landlock has ABI %d itself, and is asked for %d", abi, l.landlock)
	}
	path, err := exec.LookPath(os.Args[2])
	if err != nil {
		return err
	}
	runtime.LockOSThread() // execve keeps the filter of the thread that calls it
	if err := l.load(); err != nil {
		return err
	}
	return os.NewSyscallError("execve", unix.Exec(path, os.Args[2:], os.Environ()))
}

func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// kernels are the lacks of kernels that are still in use, named by their version.
var kernels = map[string]string{
	"5.15": "landlock=1,passrights,killable,threads,peerpidfd,calls=448", // Ubuntu 22.04
	"6.1":  "landlock=2,passrights,threads,peerpidfd,calls=450",          // Debian 12
	"6.6":  "landlock=3,passrights,threads,calls=454",                    // Alpine 3.19, WSL2
	"6.8":  "landlock=4,passrights,threads,calls=461",                    // Ubuntu 24.04
	"6.12": "landlock=6,passrights,calls=462",                            // Debian 13, RHEL 10
}

// lacks is what is to be missing.
type lacks struct {
	rules    []rule
	filters  bool // what the program loads is only pretended to be
	landlock int  // the ABI that Landlock's version is said to be; 0: asked of the kernel, or none
}

// parse reads a list of lacks.
func parse(list string) (l lacks, err error) {
	version, more, _ := strings.Cut(list, ",")
	if of, ok := kernels[version]; ok {
		list = strings.TrimSuffix(of+","+more, ",")
	}
	for lack := range strings.SplitSeq(list, ",") {
		name, value, given := strings.Cut(lack, "=")
		number := 0
		if given {
			if _, err := fmt.Sscan(value, &number); err != nil {
				return l, fmt.Errorf("%s: %w", lack, err)
			}
		}
		switch {
		case name == "landlock" && given && number > 0:
			l.landlock = number
			l.rules = append(l.rules, rule{unix.SYS_LANDLOCK_CREATE_RULESET, []condition{{2, 0, unix.LANDLOCK_CREATE_RULESET_VERSION}}, unix.SECCOMP_RET_USER_NOTIF})
		case name == "calls" && given:
			l.rules = append(l.rules, rule{number, nil, newer})
		case !given || name == "landlock":
			rules, ok := known[lack]
			if !ok {
				return l, fmt.Errorf("no lack %q", lack)
			}
			l.rules, l.filters = append(l.rules, rules...), l.filters || name == "pretend-filter"
		default:
			return l, fmt.Errorf("no lack %q", lack)
		}
	}
	return l, nil
}

// known are the lacks without a number.
var known = map[string][]rule{
	"landlock=0": {refuse(unix.SYS_LANDLOCK_CREATE_RULESET, unix.EOPNOTSUPP)}, // not among the boot's lsm=
	"passrights": {refuse(unix.SYS_SETSOCKOPT, unix.ENOPROTOOPT, condition{1, 0, unix.SOL_SOCKET}, condition{2, 0, unix.SO_PASSRIGHTS}),
		refuse(unix.SYS_GETSOCKOPT, unix.ENOPROTOOPT, condition{1, 0, unix.SOL_SOCKET}, condition{2, 0, unix.SO_PASSRIGHTS})},
	"peerpidfd": {refuse(unix.SYS_GETSOCKOPT, unix.ENOPROTOOPT, condition{1, 0, unix.SOL_SOCKET}, condition{2, 0, unix.SO_PEERPIDFD})},
	"killable": {refuse(unix.SYS_SECCOMP, unix.EINVAL, condition{0, 0, unix.SECCOMP_SET_MODE_FILTER},
		condition{1, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV})},
	"threads": {refuse(unix.SYS_PIDFD_OPEN, unix.EINVAL, condition{1, unix.PIDFD_THREAD, unix.PIDFD_THREAD})}, // Linux 6.9
	"bpf":     {refuse(unix.SYS_BPF, unix.EPERM)},
	"attach":  {refuse(unix.SYS_BPF, unix.EINVAL, condition{0, 0, unix.BPF_PROG_ATTACH})}, // without CONFIG_CGROUP_BPF
	"clone3":  {refuse(unix.SYS_CLONE3, unix.ENOSYS)},                                     // container engines of before 2021

	"pretend-filter":   {{unix.SYS_SECCOMP, []condition{{0, 0, unix.SECCOMP_SET_MODE_FILTER}}, unix.SECCOMP_RET_USER_NOTIF}},
	"pretend-landlock": {pretend(unix.SYS_LANDLOCK_RESTRICT_SELF)},
	"pretend-blocking": {pretend(unix.SYS_FCNTL, condition{1, 0, unix.F_SETFL}, condition{2, unix.O_NONBLOCK, 0})},
	"pretend-shutdown": {pretend(unix.SYS_SHUTDOWN, condition{1, 0, unix.SHUT_WR})},
}
