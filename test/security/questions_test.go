package security

import (
	"slices"
	"strconv"
	"strings"

	"activator/internal/spec"
)

// question is one of systemd's, from the table in src/analyze/analyze-security.c
// of version 252. assess is how bad a unit's answer is, from 0 to scale; a negative
// one says that the question does not apply.
type question struct {
	id            string
	weight, scale int
	capabilities  []string // the question is about them in the bounding set
	assess        func(u unit) int
	restriction   string // what answers it well
	open          string // why it may be answered badly
}

var questions = []question{
	{id: "AmbientCapabilities=", weight: 500, scale: 1, assess: assessAmbient, restriction: "the ambient set is empty"},
	{id: "CapabilityBoundingSet=~CAP_SYS_TIME", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_SYS_TIME"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_PACCT", weight: 25, scale: 1, capabilities: strings.Fields("CAP_SYS_PACCT"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_KILL", weight: 500, scale: 1, capabilities: strings.Fields("CAP_KILL"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_WAKE_ALARM", weight: 25, scale: 1, capabilities: strings.Fields("CAP_WAKE_ALARM"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_(DAC_*|FOWNER|IPC_OWNER)", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_IPC_OWNER"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_LINUX_IMMUTABLE", weight: 75, scale: 1, capabilities: strings.Fields("CAP_LINUX_IMMUTABLE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_IPC_LOCK", weight: 50, scale: 1, capabilities: strings.Fields("CAP_IPC_LOCK"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_MODULE", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_SYS_MODULE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_BPF", weight: 25, scale: 1, capabilities: strings.Fields("CAP_BPF"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_TTY_CONFIG", weight: 25, scale: 1, capabilities: strings.Fields("CAP_SYS_TTY_CONFIG"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_BOOT", weight: 100, scale: 1, capabilities: strings.Fields("CAP_SYS_BOOT"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_CHROOT", weight: 50, scale: 1, capabilities: strings.Fields("CAP_SYS_CHROOT"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_BLOCK_SUSPEND", weight: 25, scale: 1, capabilities: strings.Fields("CAP_BLOCK_SUSPEND"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_LEASE", weight: 25, scale: 1, capabilities: strings.Fields("CAP_LEASE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_MKNOD", weight: 500, scale: 1, capabilities: strings.Fields("CAP_MKNOD"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_(CHOWN|FSETID|SETFCAP)", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_CHOWN CAP_FSETID CAP_SETFCAP"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SET(UID|GID|PCAP)", weight: 1500, scale: 1, capabilities: strings.Fields("CAP_SETUID CAP_SETGID CAP_SETPCAP"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_MAC_*", weight: 100, scale: 1, capabilities: strings.Fields("CAP_MAC_ADMIN CAP_MAC_OVERRIDE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_RAWIO", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_SYS_RAWIO"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_PTRACE", weight: 1500, scale: 1, capabilities: strings.Fields("CAP_SYS_PTRACE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_(NICE|RESOURCE)", weight: 500, scale: 1, capabilities: strings.Fields("CAP_SYS_NICE CAP_SYS_RESOURCE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_NET_ADMIN", weight: 1000, scale: 1, capabilities: strings.Fields("CAP_NET_ADMIN"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_NET_(BIND_SERVICE|BROADCAST|RAW)", weight: 500, scale: 1, capabilities: strings.Fields("CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_RAW"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_AUDIT_*", weight: 500, scale: 1, capabilities: strings.Fields("CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_AUDIT_WRITE"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYS_ADMIN", weight: 1500, scale: 1, capabilities: strings.Fields("CAP_SYS_ADMIN"), restriction: "no capability in any set"},
	{id: "CapabilityBoundingSet=~CAP_SYSLOG", weight: 500, scale: 1, capabilities: strings.Fields("CAP_SYSLOG"), restriction: "no capability in any set"},
	{id: "Delegate=", weight: 100, scale: 1, assess: assessValue("Delegate", map[string]int{"yes": 1}, 0), restriction: "no control group file system inside"},
	{id: "DeviceAllow=", weight: 1000, scale: 10, assess: assessDevices, restriction: "six pseudo devices, every other mount is nodev, mknod(2) is refused",
		open: "systemd's ProtectClock= lets a service read the clock's device, and counts that here; ours has none"},
	{id: "IPAddressDeny=", weight: 1000, scale: 10, assess: assessAddresses, restriction: "only lo in its own namespace, and the seal on what it was given",
		open: "loopback of its own namespace stays: programs talk to their own parts"},
	{id: "KeyringMode=", weight: 1000, scale: 1, assess: assessValue("KeyringMode", map[string]int{"": 0, "private": 0}, 1), restriction: "keyctl(2), add_key(2) and request_key(2) are refused"},
	{id: "LockPersonality=", weight: 100, scale: 1, assess: assessYes("LockPersonality"), restriction: "personality(2) takes nothing but what is",
		open: "personality(2) may call itself 32-bit Linux or an old one, for uname(2); nothing that weakens addresses"},
	{id: "MemoryDenyWriteExecute=", weight: 100, scale: 1, assess: assessYes("MemoryDenyWriteExecute"), restriction: "memory is writable or executable",
		open: "compilers at run time (Java, V8, LuaJIT, PCRE) need it"},
	{id: "NoNewPrivileges=", weight: 1000, scale: 1, assess: assessYes("NoNewPrivileges"), restriction: "no_new_privs, prctl(2)"},
	{id: "NotifyAccess=", weight: 1000, scale: 1, assess: assessValue("NotifyAccess", map[string]int{"all": 1}, 0), restriction: "no NOTIFY_SOCKET unless asked for"},
	{id: "PrivateDevices=", weight: 1000, scale: 1, assess: assessYes("PrivateDevices"), restriction: "a /dev of six pseudo devices"},
	{id: "PrivateMounts=", weight: 1000, scale: 1, assess: assessYes("PrivateMounts"), restriction: "own mount namespace"},
	{id: "PrivateNetwork=", weight: 2500, scale: 1, assess: assessYes("PrivateNetwork"), restriction: "own network namespace with only lo"},
	{id: "PrivateTmp=", weight: 1000, scale: 1, assess: assessYes("PrivateTmp"), restriction: "fresh /tmp and /var/tmp"},
	{id: "PrivateUsers=", weight: 1000, scale: 1, assess: assessYes("PrivateUsers"), restriction: "own user namespace that maps one id"},
	{id: "ProcSubset=", weight: 10, scale: 1, assess: assessValue("ProcSubset", map[string]int{"pid": 0}, 1), restriction: "only processes in /proc",
		open: "Go, Java and the C library read /proc/sys, cpuinfo and meminfo"},
	{id: "ProtectClock=", weight: 1000, scale: 1, assess: assessYes("ProtectClock"), restriction: "the calls are refused, and no capability for them"},
	{id: "ProtectControlGroups=", weight: 1000, scale: 1, assess: assessYes("ProtectControlGroups"), restriction: "no control group file system inside"},
	{id: "ProtectHome=", weight: 1000, scale: 10, assess: assessValue("ProtectHome", map[string]int{"yes": 0, "tmpfs": 1, "read-only": 5}, 10), restriction: "no /home, /root or /run/user inside",
		open: "an ordinary user's service finds its own home there, empty"},
	{id: "ProtectHostname=", weight: 50, scale: 1, assess: assessYes("ProtectHostname"), restriction: "own uts namespace, the calls are refused"},
	{id: "ProtectKernelLogs=", weight: 1000, scale: 1, assess: assessYes("ProtectKernelLogs"), restriction: "syslog(2) is refused, no /dev/kmsg"},
	{id: "ProtectKernelModules=", weight: 1000, scale: 1, assess: assessYes("ProtectKernelModules"), restriction: "the calls are refused, no capability, no modules to read",
		open: "the files of /usr/lib/modules can be read, nothing can be loaded"},
	{id: "ProtectKernelTunables=", weight: 1000, scale: 1, assess: assessYes("ProtectKernelTunables"), restriction: "nothing of /proc/sys can be written, no /sys, no kernel addresses"},
	{id: "ProtectProc=", weight: 1000, scale: 3, assess: assessValue("ProtectProc", map[string]int{"invisible": 0, "ptraceable": 0, "noaccess": 1}, 3), restriction: "own pid namespace with its own /proc"},
	{id: "ProtectSystem=", weight: 1000, scale: 10, assess: assessValue("ProtectSystem", map[string]int{"strict": 0, "full": 3, "yes": 5}, 10), restriction: "every mount of the host's is read-only"},
	{id: "RemoveIPC=", weight: 100, scale: 1, assess: assessIPC, restriction: "own ipc namespace, it ends with the service"},
	{id: "RestrictAddressFamilies=~AF_PACKET", weight: 1000, scale: 1, assess: assessFamilies("AF_PACKET"), restriction: "socket(2) is refused"},
	{id: "RestrictAddressFamilies=~AF_NETLINK", weight: 200, scale: 1, assess: assessFamilies("AF_NETLINK"), restriction: "socket(2) is refused",
		open: "getifaddrs(3) reads addresses and routes by it"},
	{id: "RestrictAddressFamilies=~AF_UNIX", weight: 25, scale: 1, assess: assessFamilies("AF_UNIX"), restriction: "socket(2) is refused",
		open: "programs talk to their own parts"},
	{id: "RestrictAddressFamilies=~…", weight: 1250, scale: 1, assess: assessExotic, restriction: "socket(2) is refused"},
	{id: "RestrictAddressFamilies=~AF_(INET|INET6)", weight: 1500, scale: 1, assess: assessFamilies("AF_INET", "AF_INET6"), restriction: "socket(2) is refused",
		open: "programs talk to their own parts, on loopback inside"},
	{id: "RestrictNamespaces=~user", weight: 1500, scale: 1, assess: assessNamespace("user"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~pid", weight: 500, scale: 1, assess: assessNamespace("pid"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~net", weight: 500, scale: 1, assess: assessNamespace("net"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~uts", weight: 100, scale: 1, assess: assessNamespace("uts"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~mnt", weight: 500, scale: 1, assess: assessNamespace("mnt"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~cgroup", weight: 500, scale: 1, assess: assessNamespace("cgroup"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictNamespaces=~ipc", weight: 500, scale: 1, assess: assessNamespace("ipc"), restriction: "clone(2) and unshare(2) are refused it, clone3(2) and setns(2) altogether"},
	{id: "RestrictRealtime=", weight: 500, scale: 1, assess: assessYes("RestrictRealtime"), restriction: "no capability and no limit for it: the kernel refuses"},
	{id: "RestrictSUIDSGID=", weight: 1000, scale: 1, assess: assessYes("RestrictSUIDSGID"), restriction: "every call with a mode is refused the bits",
		open: "a mode with the bits is not refused (such a file has no effect inside: every mount is nosuid)"},
	{id: "RootDirectory=/RootImage=", weight: 200, scale: 1, assess: assessSet("RootDirectory"), restriction: "own root, the host's is unmounted"},
	{id: "SupplementaryGroups=", weight: 200, scale: 1, assess: assessGroups, restriction: "none as root; an ordinary user cannot give up his own",
		open: "an ordinary user cannot give up his own groups (setgroups(2) is closed in his namespaces)"},
	{id: "SystemCallArchitectures=", weight: 1000, scale: 10, assess: assessValue("SystemCallArchitectures", map[string]int{"": 10, "native": 0}, 8), restriction: "other machines' calls are refused"},
	{id: "SystemCallFilter=~@clock", weight: 1000, scale: 10, assess: assessCalls("@clock"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@cpu-emulation", weight: 250, scale: 10, assess: assessCalls("@cpu-emulation"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@debug", weight: 1000, scale: 10, assess: assessCalls("@debug"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@module", weight: 1000, scale: 10, assess: assessCalls("@module"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@mount", weight: 1000, scale: 10, assess: assessCalls("@mount"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@obsolete", weight: 250, scale: 10, assess: assessCalls("@obsolete"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@privileged", weight: 700, scale: 10, assess: assessCalls("@privileged"), restriction: "a filter refuses every call of it",
		open: "servers start as root of their own and give it up: chown(2), setuid(2), setgroups(2)"},
	{id: "SystemCallFilter=~@raw-io", weight: 1000, scale: 10, assess: assessCalls("@raw-io"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@reboot", weight: 1000, scale: 10, assess: assessCalls("@reboot"), restriction: "a filter refuses every call of it"},
	{id: "SystemCallFilter=~@resources", weight: 700, scale: 10, assess: assessCalls("@resources"), restriction: "a filter refuses every call of it",
		open: "servers set their own priority, limits and processors: setpriority(2), setrlimit(2), sched_setaffinity(2)"},
	{id: "SystemCallFilter=~@swap", weight: 1000, scale: 10, assess: assessCalls("@swap"), restriction: "a filter refuses every call of it"},
	{id: "UMask=", weight: 100, scale: 10, assess: assessUMask,
		open: "0022, systemd's own default: umask in the configuration changes it"},
	{id: "User=/DynamicUser=", weight: 2000, scale: 10, assess: assessUser, restriction: "an id of its own as root, else the user who runs us"},
}

// badness is between 0 and the scale, or negative.
func (q question) badness(u unit) int {
	if q.capabilities == nil {
		return q.assess(u)
	}
	set, bounded := u["CapabilityBoundingSet"]
	for _, c := range q.capabilities {
		if !bounded || has(set, c) {
			return 1
		}
	}
	return 0
}

// points are what an answer adds to the sum: its share of the weight, rounded up.
func (q question) points(u unit) int {
	return (max(q.badness(u), 0)*q.weight + q.scale - 1) / q.scale
}

// exposure is systemd's measure in tenths, 0 to 100: the share of the weights
// of all questions that apply, rounded up.
func exposure(u unit) int {
	points, weights := 0, 0
	for _, q := range questions {
		if q.badness(u) >= 0 {
			points += q.points(u)
			weights += q.weight
		}
	}
	return (points*100 + weights - 1) / weights
}

func has(list, word string) bool { return slices.Contains(strings.Fields(list), word) }

func truth(isBad bool) int {
	if isBad {
		return 1
	}
	return 0
}

func assessYes(key string) func(unit) int {
	return func(u unit) int { return truth(u[key] != "yes") }
}

func assessSet(key string) func(unit) int {
	return func(u unit) int { return truth(u[key] == "") }
}

// assessValue looks the value up, "" for none.
func assessValue(key string, known map[string]int, otherwise int) func(unit) int {
	return func(u unit) int {
		if badness, ok := known[u[key]]; ok {
			return badness
		}
		return otherwise
	}
}

func privileged(u unit) bool { return slices.Contains([]string{"", "0", "root"}, u["User"]) }

func assessUser(u unit) int { return 10 * truth(privileged(u)) }

func assessGroups(u unit) int {
	if privileged(u) {
		return -1
	}
	return truth(u["SupplementaryGroups"] != "")
}

func assessIPC(u unit) int {
	if privileged(u) {
		return -1
	}
	return truth(u["RemoveIPC"] != "yes")
}

func assessAmbient(u unit) int { return truth(u["AmbientCapabilities"] != "") }

func assessUMask(u unit) int {
	const byDefault = 0o022 // of a system service
	mask, err := strconv.ParseUint(u["UMask"], 8, 32)
	if err != nil {
		mask = byDefault
	}
	for _, step := range []struct {
		bit     uint64
		badness int
	}{{0o002, 10}, {0o004, 5}, {0o020, 2}, {0o040, 1}} {
		if mask&step.bit == 0 {
			return step.badness
		}
	}
	return 0
}

func assessNamespace(kind string) func(unit) int {
	return func(u unit) int { return truth(!has(strings.TrimPrefix(u["RestrictNamespaces"], "~"), kind)) }
}

// assessFamilies: what stands in the directive is allowed.
func assessFamilies(families ...string) func(unit) int {
	return func(u unit) int {
		allowed, restricted := u["RestrictAddressFamilies"]
		return truth(!restricted || slices.ContainsFunc(families, func(f string) bool { return has(allowed, f) }))
	}
}

func assessExotic(u unit) int {
	allowed, restricted := u["RestrictAddressFamilies"]
	return truth(!restricted || slices.ContainsFunc(strings.Fields(allowed), func(f string) bool {
		return !has("none AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET", f)
	}))
}

func assessCalls(group string) func(unit) int {
	return func(u unit) int {
		denied := strings.TrimPrefix(u["SystemCallFilter"], "~")
		return 10 * truth(slices.ContainsFunc(members(group), func(call string) bool { return !has(denied, call) }))
	}
}

// assessDevices: ProtectClock= adds char-rtc to what a policy allows
// (unit_patch_contexts in src/core/unit.c).
func assessDevices(u unit) int {
	switch {
	case u["DevicePolicy"] != "closed":
		return 10
	case u["ProtectClock"] == "yes":
		return 5
	}
	return 0
}

func assessAddresses(u unit) int {
	switch {
	case u["IPAddressDeny"] != "any":
		return 10
	case u["IPAddressAllow"] == "localhost":
		return 2
	case u["IPAddressAllow"] != "":
		return 5
	}
	return 0
}

// capabilityNumbers are those that a question is about, by name.
func capabilityNumbers() map[string]int {
	numbers := map[string]int{}
	for _, q := range questions {
		for _, c := range q.capabilities {
			if number, ok := spec.ParseCapability(c); ok {
				numbers[c] = int(number)
			}
		}
	}
	return numbers
}
