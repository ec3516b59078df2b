package seccomp

import "golang.org/x/sys/unix"

// The profile: what a service may not ask the kernel for. It is a list of what is
// refused, as no list of what is needed is ever complete; what a kernel newer than
// this table has is refused too. It covers what Podman's default profile refuses to a container
// without capabilities, and more; a test compares.
//
// A refused call fails, it does not kill: EPERM as if the privilege were missing,
// or ENOSYS as on an older kernel, where that makes a libc fall back on something
// else. What depends on arguments has a check (checks.go, options.go). Two kept
// capabilities open what they are for, CAP_SYS_CHROOT and CAP_NET_RAW; no other does.

// newest is the last system call this table knows (Linux 7.1); both machines number
// new ones alike. What is above gets ENOSYS, and so do x32's, which have bit 30 set.
const newest = 471 // rseq_slice_yield

// none is the number of a call that a machine does not have.
const none = -1

// call is a system call by its name, and its number on each machine.
type call struct {
	name         string
	amd64, arm64 int
}

// group is system calls with one reason and one answer.
type group struct {
	calls []call
	why   string
	errno unix.Errno                   // the answer, when check is nil
	check func(p *Profile) verdict     // the answer by argument
	when  func(p *Profile) (used bool) // nil: part of the default profile
}

// It is made without a function call, and so by the compiler: the reaper and the guard, which
// never look at it, would pay for anything else at every start.
var groups = [...]group{
	// Ways out of the file system and the namespaces. CAP_SYS_ADMIN opens none of
	// them, here or below: the sandbox is made of them. syscalls = "any" does.
	{calls: []call{
		{"mount", 165, 40}, {"umount2", 166, 39}, {"pivot_root", 155, 41}, {"open_tree", 428, 428},
		{"open_tree_attr", 467, 467}, {"move_mount", 429, 429}, {"mount_setattr", 442, 442}, {"fsopen", 430, 430},
		{"fsconfig", 431, 431}, {"fsmount", 432, 432}, {"fspick", 433, 433},
	}, why: "what is mounted is the sandbox; and the kernel's parsers of file systems", errno: unix.EPERM},
	{calls: []call{
		{"chroot", 161, 51},
	}, why: "a classic way around a root", errno: unix.EPERM, when: noChroot},
	{calls: []call{
		{"setns", 308, 268}, {"sethostname", 170, 161}, {"setdomainname", 171, 162},
	}, why: "namespaces are entered from outside", errno: unix.EPERM},
	{calls: []call{
		{"clone", 56, 220}, {"unshare", 272, 97},
	}, why: "a user namespace of one's own gives every capability in it, which most holes of the kernel want", check: noNamespaces},
	{calls: []call{
		{"clone3", 435, 435},
	}, why: "its flags are behind a pointer; every libc falls back on clone", errno: unix.ENOSYS},
	{calls: []call{
		{"open_by_handle_at", 304, 265}, {"fanotify_init", 300, 262},
	}, why: "files by their inode, past every mount (the way out of early containers); watching a whole file system", errno: unix.EPERM},
	{calls: []call{
		{"statmount", 457, 457}, {"listmount", 458, 458}, {"listns", 470, 470}, {"lsm_get_self_attr", 459, 459},
		{"lsm_set_self_attr", 460, 460}, {"lsm_list_modules", 461, 461},
	}, why: "new, and for those who manage namespaces and security modules", errno: unix.ENOSYS},

	// Other processes.
	{calls: []call{
		{"ptrace", 101, 117}, {"process_vm_readv", 310, 270}, {"process_vm_writev", 311, 271},
		{"process_madvise", 440, 440}, {"pidfd_getfd", 438, 438}, {"kcmp", 312, 272},
	}, why: "a debugger's; CAP_SYS_PTRACE does not open them, whose holder could take over the reaper of init = true", errno: unix.EPERM},

	// The kernel's own machinery: large, and where most holes have been found.
	{calls: []call{
		{"io_uring_setup", 425, 425}, {"io_uring_enter", 426, 426}, {"io_uring_register", 427, 427},
	}, why: "its connect, send and bind never pass this filter", errno: unix.ENOSYS, when: forAll},
	{calls: []call{
		{"bpf", 321, 280}, {"perf_event_open", 298, 241}, {"userfaultfd", 323, 282}, {"lookup_dcookie", 212, 18},
	}, why: "programs and counters in the kernel; faults held up to win races in it", errno: unix.EPERM},
	{calls: []call{
		{"add_key", 248, 217}, {"request_key", 249, 218}, {"keyctl", 250, 219},
	}, why: "keys belong to a user, not to a namespace; request_key starts a program on the host", errno: unix.ENOSYS},
	{calls: []call{
		{"migrate_pages", 256, 238}, {"move_pages", 279, 239}, {"set_mempolicy_home_node", 450, 450},
		{"cachestat", 451, 451},
	}, why: "memory of others and the host's page cache, also as a side channel", errno: unix.ENOSYS},
	{calls: []call{
		{"vmsplice", 278, 75}, {"io_pgetevents", 333, 292},
	}, why: "refused by Podman; there are read, write and io_getevents", errno: unix.ENOSYS},

	// The machine.
	{calls: []call{
		{"quotactl", 179, 60}, {"quotactl_fd", 443, 443}, {"swapon", 167, 224}, {"swapoff", 168, 225},
		{"reboot", 169, 142}, {"acct", 163, 89}, {"syslog", 103, 116}, {"vhangup", 153, 58},
		{"kexec_load", 246, 104}, {"kexec_file_load", 320, 294},
	}, why: "for who runs the machine; syslog(2) is the kernel's log, with its addresses", errno: unix.EPERM},
	{calls: []call{
		{"init_module", 175, 105}, {"finit_module", 313, 273}, {"delete_module", 176, 106},
	}, why: "code in the kernel", errno: unix.EPERM},
	{calls: []call{
		{"settimeofday", 164, 170}, {"clock_settime", 227, 112}, {"adjtimex", 159, 171}, {"clock_adjtime", 305, 266},
	}, why: "there is one clock, the host's", errno: unix.EPERM},
	{calls: []call{
		{"iopl", 172, none}, {"ioperm", 173, none},
	}, why: "the machine's ports", errno: unix.EPERM},
	{calls: []call{
		{"modify_ldt", 154, none}, {"uselib", 134, none}, {"ustat", 136, none}, {"sysfs", 139, none}, {"_sysctl", 156, none},
		{"create_module", 174, none}, {"query_module", 178, none}, {"get_kernel_syms", 177, none},
		{"nfsservctl", 180, 42}, {"getpmsg", 181, none}, {"putpmsg", 182, none}, {"afs_syscall", 183, none},
		{"tuxcall", 184, none}, {"security", 185, none}, {"vserver", 236, none},
	}, why: "of the past, or of 16-bit programs", errno: unix.ENOSYS},
	{calls: []call{
		{"personality", 135, 92},
	}, why: "no address randomisation, executable stacks", check: checkPersonality},
	{calls: []call{
		{"prctl", 157, 167},
	}, why: "the few that open a process to others or change what it seems to be", check: processControls},

	// Files that are shared with the host.
	{calls: []call{
		{"fcntl", 72, 25},
	}, why: "a lease holds up whoever opens the file on the host; dnotify sees it", check: noLeases},

	// Set-user-id and set-group-id files.
	{calls: []call{
		{"chmod", 90, none}, {"fchmod", 91, 52}, {"creat", 85, none}, {"mkdir", 83, none}, {"mknod", 133, none},
	}, why: "a program left in a folder of the host's would be the service's user for whoever starts it", check: changesMode},
	{calls: []call{
		{"fchmodat", 268, 53}, {"fchmodat2", 452, 452}, {"mkdirat", 258, 34}, {"mknodat", 259, 33},
	}, why: "the same", check: changesModeAt},
	{calls: []call{
		{"open", 2, none},
	}, why: "the same", check: checkOpen},
	{calls: []call{
		{"openat", 257, 56},
	}, why: "the same", check: opensAt},
	{calls: []call{
		{"openat2", 437, 437},
	}, why: "its mode is behind a pointer; who uses it falls back on openat", errno: unix.ENOSYS},

	// Files of the users that it sees.
	{calls: []call{
		{"chown", 92, none}, {"lchown", 94, none}, {"fchown", 93, 55}, {"fchownat", 260, 54},
	}, why: "root's; in the service's own directories we do it", check: changesOwner, when: ifOwners},

	// Core dumps.
	{calls: []call{
		{"prlimit64", 302, 261},
	}, why: "a limit of 1 closes core dumps, and 0 would open those to a program of the host again", check: noCoreLimit, when: noCores},
	{calls: []call{
		{"setrlimit", 160, 164},
	}, why: "the same", check: noCoreLimitOld, when: noCores},

	// Sockets it makes itself.
	{calls: []call{
		{"socket", 41, 198},
	}, why: "families beyond the internet's and unix: little used, much broken", check: checkFamily, when: makesSockets},
	{calls: []call{
		{"socketpair", 53, 199},
	}, why: "the same", check: checkPair, when: makesSockets},

	// The seal, and sockets it did not make.
	{calls: []call{
		{"connect", 42, 203},
	}, why: "a listener or an accepted connection, dissolved, would connect from the host's network; the address is behind a pointer", check: checkConnect, when: forAll},
	{calls: []call{
		{"bind", 49, 200},
	}, why: "the same socket would get a port of the host", check: checkBind, when: ifBound},
	{calls: []call{
		{"listen", 50, 201},
	}, why: "with connect answered by a supervisor a dissolved socket can be", check: checkListen, when: ifBound},
	{calls: []call{
		{"sendto", 44, 206}, {"sendmmsg", 307, 269},
	}, why: "MSG_FASTOPEN is a connect, and Landlock does not see it", check: fastOpenSend, when: ifSealed},
	{calls: []call{
		{"sendmsg", 46, 211},
	}, why: "the same", check: fastOpenMessage, when: ifSealed},
	{calls: []call{
		{"setsockopt", 54, 208},
	}, why: "an option stays with the socket, for the next instance and for us", check: checkOption, when: ifSealed},
	{calls: []call{
		{"ioctl", 16, 29},
	}, why: "of terminals: typing for others; of sockets: the host's interfaces", check: checkControl, when: forAll},
}

// machine is a kind of processor: what seccomp calls an architecture.
type machine struct {
	audit  uint32 // AUDIT_ARCH_*
	number func(c call) int
}

var (
	amd64 = machine{unix.AUDIT_ARCH_X86_64, func(c call) int { return c.amd64 }}
	arm64 = machine{unix.AUDIT_ARCH_AARCH64, func(c call) int { return c.arm64 }}
)
