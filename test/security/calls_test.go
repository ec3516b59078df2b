package security

import (
	"runtime"
	"slices"
	"syscall"
)

// attempt is one system call with arguments that do nothing, even for a user
// that may: a bad address, descriptor, flag or process. Where the kernel looks at
// them before it looks at the caller, its own answer is no EPERM, so that a
// filter's is told apart from it.
type attempt struct {
	name string
	args [6]uintptr
}

const (
	none = ^uintptr(0) // -1: no such descriptor, process, id, flag
	bad  = 1           // no address
)

// groups are systemd's, systemd.exec(5) and `systemd-analyze syscall-filter`, of
// version 252, without the calls that no 64-bit machine of ours has.
var groups = map[string][]string{
	"@chown":         {"chown", "fchown", "fchownat", "lchown"},
	"@clock":         {"adjtimex", "clock_adjtime", "clock_settime", "settimeofday"},
	"@cpu-emulation": {"modify_ldt"},
	"@debug":         {"lookup_dcookie", "perf_event_open", "pidfd_getfd", "ptrace"},
	"@module":        {"delete_module", "finit_module", "init_module"},
	"@mount": {"chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount",
		"open_tree", "pivot_root", "umount2"},
	"@obsolete": {"_sysctl", "afs_syscall", "create_module", "get_kernel_syms", "getpmsg", "putpmsg", "query_module",
		"security", "sysfs", "tuxcall", "uselib", "ustat", "vserver"},
	"@privileged": {"@chown", "@clock", "@module", "@raw-io", "@reboot", "@swap", "_sysctl", "acct", "bpf", "capset", "chroot",
		"fanotify_init", "fanotify_mark", "nfsservctl", "open_by_handle_at", "pivot_root", "quotactl", "quotactl_fd",
		"setdomainname", "setfsuid", "setgroups", "sethostname", "setresuid", "setreuid", "setuid", "vhangup"},
	"@raw-io": {"ioperm", "iopl"},
	"@reboot": {"kexec_file_load", "kexec_load", "reboot"},
	"@resources": {"ioprio_set", "mbind", "migrate_pages", "move_pages", "sched_setaffinity", "sched_setattr", "sched_setparam",
		"sched_setscheduler", "set_mempolicy", "set_mempolicy_home_node", "setpriority", "setrlimit"},
	"@swap": {"swapoff", "swapon"},
}

// beyond are calls that no question is about by name, but a directive is.
var beyond = []string{"add_key", "clone3", "keyctl", "request_key", "setns", "syslog"}

var attempts = []attempt{
	{"chown", [6]uintptr{bad, none, none}}, {"fchown", [6]uintptr{none, none, none}},
	{"fchownat", [6]uintptr{none, bad, none, none}}, {"lchown", [6]uintptr{bad, none, none}},
	{"adjtimex", [6]uintptr{bad}}, {"clock_adjtime", [6]uintptr{0, bad}},
	{"clock_settime", [6]uintptr{99, bad}}, {"settimeofday", [6]uintptr{bad, 0}},
	{"modify_ldt", [6]uintptr{0, bad, 0}},
	{"lookup_dcookie", [6]uintptr{0, bad, 0}}, {"perf_event_open", [6]uintptr{bad, none, none, none, none}},
	{"pidfd_getfd", [6]uintptr{none, none, 0}}, {"ptrace", [6]uintptr{0x7fff, none}},
	{"delete_module", [6]uintptr{bad}}, {"finit_module", [6]uintptr{none, bad}}, {"init_module", [6]uintptr{bad, 0, bad}},
	{"chroot", [6]uintptr{bad}}, {"fsconfig", [6]uintptr{none, 99}}, {"fsmount", [6]uintptr{none, none, none}},
	{"fsopen", [6]uintptr{bad, none}}, {"fspick", [6]uintptr{none, bad, none}}, {"mount", [6]uintptr{bad, bad, bad, none, bad}},
	{"mount_setattr", [6]uintptr{none, bad, none, bad, 0}}, {"move_mount", [6]uintptr{none, bad, none, bad, none}},
	{"open_tree", [6]uintptr{none, bad, none}}, {"pivot_root", [6]uintptr{bad, bad}}, {"umount2", [6]uintptr{bad, none}},
	{"_sysctl", [6]uintptr{bad}}, {"afs_syscall", [6]uintptr{}}, {"create_module", [6]uintptr{bad}},
	{"get_kernel_syms", [6]uintptr{bad}}, {"getpmsg", [6]uintptr{none}}, {"putpmsg", [6]uintptr{none}},
	{"query_module", [6]uintptr{bad}}, {"security", [6]uintptr{}}, {"sysfs", [6]uintptr{99}}, {"tuxcall", [6]uintptr{}},
	{"uselib", [6]uintptr{bad}}, {"ustat", [6]uintptr{0, bad}}, {"vserver", [6]uintptr{}},
	{"acct", [6]uintptr{bad}}, {"bpf", [6]uintptr{0xffff, bad, 0}}, {"capset", [6]uintptr{bad, bad}},
	{"fanotify_init", [6]uintptr{none, none}}, {"fanotify_mark", [6]uintptr{none, none, none, none, bad}},
	{"nfsservctl", [6]uintptr{none, bad, bad}}, {"open_by_handle_at", [6]uintptr{none, bad, 0}},
	{"quotactl", [6]uintptr{0x7fffff00, bad, 0, bad}}, {"quotactl_fd", [6]uintptr{none, 0x7fffff00, 0, bad}},
	{"setdomainname", [6]uintptr{bad, none}}, {"setfsuid", [6]uintptr{none}}, {"setgroups", [6]uintptr{0x7fffffff, bad}},
	{"sethostname", [6]uintptr{bad, none}}, {"setresuid", [6]uintptr{none, none, none}}, {"setreuid", [6]uintptr{none, none}},
	{"setuid", [6]uintptr{none}}, {"vhangup", [6]uintptr{}},
	{"ioperm", [6]uintptr{0, 0, 0}}, {"iopl", [6]uintptr{4}},
	{"kexec_file_load", [6]uintptr{none, none, 0, bad, none}}, {"kexec_load", [6]uintptr{0, 0, bad, none}}, {"reboot", [6]uintptr{}},
	{"ioprio_set", [6]uintptr{99}}, {"mbind", [6]uintptr{bad, 1, 99, bad, 0, none}}, {"migrate_pages", [6]uintptr{0x7fffffff, 0, bad, bad}},
	{"move_pages", [6]uintptr{0x7fffffff, 0, bad, bad, bad, 0}}, {"sched_setaffinity", [6]uintptr{0x7fffffff, 8, bad}},
	{"sched_setattr", [6]uintptr{0, bad, none}}, {"sched_setparam", [6]uintptr{none, bad}},
	{"sched_setscheduler", [6]uintptr{none, 0, bad}}, {"set_mempolicy", [6]uintptr{99, bad, 0}},
	{"set_mempolicy_home_node", [6]uintptr{bad, 0, 0, none}}, {"setpriority", [6]uintptr{99}}, {"setrlimit", [6]uintptr{99, bad}},
	{"swapoff", [6]uintptr{bad}}, {"swapon", [6]uintptr{bad, none}},
	{"add_key", [6]uintptr{bad, bad, bad, 0, 0}}, {"clone3", [6]uintptr{bad, 0}}, {"keyctl", [6]uintptr{0, none - 2, 0}},
	{"request_key", [6]uintptr{bad, bad, bad, 0}}, {"setns", [6]uintptr{none, 0}}, {"syslog", [6]uintptr{10, 0, 0}},
}

// try makes every call once and returns what each was answered, "" for success.
func try() map[string]string {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	answers := make(map[string]string, len(attempts))
	for _, a := range attempts {
		number, known := numbers[a.name]
		if !known {
			continue // not on this machine
		}
		_, _, errno := syscall.RawSyscall6(number, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], a.args[5])
		answers[a.name] = name(errno)
	}
	return answers
}

// members lists the calls of a group that this machine has.
func members(group string) []string {
	var calls []string
	for _, member := range groups[group] {
		if member[0] == '@' {
			calls = append(calls, members(member)...)
		} else if _, known := numbers[member]; known {
			calls = append(calls, member)
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}
