package security

import (
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unit is the [Service] section of a unit file: directives with their values.
type unit map[string]string

func (u unit) String() string {
	var b strings.Builder
	b.WriteString("[Service]\nExecStart=/bin/true\n")
	for _, key := range slices.Sorted(maps.Keys(u)) {
		fmt.Fprintf(&b, "%s=%s\n", key, u[key])
	}
	return b.String()
}

// unitOf writes the unit whose directives have the effects that were seen, and no
// others. Where systemd's own default is the good one, the bad one is written
// unless its absence was seen.
func unitOf(o observation) unit {
	u := unit{}
	for key, proven := range map[string]bool{
		"PrivateMounts":          o.own("mnt"),
		"PrivateNetwork":         o.own("net") && slices.Equal(o.Interfaces, []string{"lo"}) && !o.arrived("own"),
		"PrivateTmp":             o.own("mnt") && len(o.Files) == 0,
		"PrivateUsers":           o.own("user") && oneID(o.UIDs) && oneID(o.GIDs),
		"PrivateDevices":         o.own("mnt") && o.onlyPseudoDevices(),
		"ProtectControlGroups":   !slices.ContainsFunc(o.mounts(), mount.controlGroup),
		"ProtectKernelModules":   o.denied("init_module", "finit_module", "delete_module") && len(o.Modules) == 0 && o.lacks(unix.CAP_SYS_MODULE),
		"ProtectKernelTunables":  len(o.Tunables) == 0 && !o.reads("/sys/kernel", "/proc/kcore", "address in /proc/kallsyms"),
		"ProtectKernelLogs":      o.denied("syslog") && !o.reads("/dev/kmsg", "/proc/kmsg") && o.lacks(unix.CAP_SYSLOG),
		"ProtectClock":           o.denied(members("@clock")...) && !o.reads("/dev/rtc0") && o.lacks(unix.CAP_SYS_TIME) && o.lacks(unix.CAP_WAKE_ALARM),
		"ProtectHostname":        o.own("uts") && o.denied("sethostname", "setdomainname"),
		"LockPersonality":        denial(o.Personality),
		"MemoryDenyWriteExecute": allDenied(o.WriteExec),
		"NoNewPrivileges":        o.Outside.Status["NoNewPrivs"] == "1",
		"RemoveIPC":              o.own("ipc") && !o.Outside.LeftIPC,
		"RestrictRealtime":       allDenied(o.Realtime),
		"RestrictSUIDSGID":       len(o.SetID) == 0 && denial(o.Mknod),
	} {
		if proven {
			u[key] = "yes"
		}
	}
	for key, w := range map[string]struct {
		proven bool
		value  string
	}{
		"User":                    {o.uid() != "0", o.uid()},
		"SupplementaryGroups":     {o.groups() != "", o.groups()},
		"ProtectHome":             {o.own("mnt") && o.homes() != "", o.homes()},
		"ProtectSystem":           {o.own("mnt") && !slices.ContainsFunc(o.mounts(), o.writesHost), "strict"},
		"ProtectProc":             {o.own("pid") && len(o.Processes) == 0, "invisible"},
		"ProcSubset":              {slices.ContainsFunc(o.mounts(), mount.onlyPids), "pid"},
		"RootDirectory":           {o.ownRoot(), "/its/own"},
		"DevicePolicy":            {o.onlyPseudoDevices() && o.noOtherDevices(), "closed"},
		"SystemCallArchitectures": {o.native(), "native"},
		"SystemCallFilter":        {o.refused() != "", "~" + o.refused()},
		"RestrictNamespaces":      {o.noNamespaces() != "", "~" + o.noNamespaces()},
		"RestrictAddressFamilies": {o.filtersFamilies(), o.families()},
		"CapabilityBoundingSet":   {true, o.capabilities("CapBnd", "CapPrm", "CapEff", "CapInh")},
		"AmbientCapabilities":     {true, o.capabilities("CapAmb")},
		"UMask":                   {true, o.Outside.Status["Umask"]},
		"KeyringMode":             {!o.denied("keyctl", "add_key", "request_key"), "shared"},
		"NotifyAccess":            {slices.ContainsFunc(o.Environment, notifies), "all"},
		"Delegate":                {slices.ContainsFunc(o.mounts(), mount.delegated), "yes"},
		"IPAddressDeny":           {o.sealed(), "any"},
		"IPAddressAllow":          {o.sealed() && o.Local == "", "localhost"},
	} {
		if w.proven {
			u[key] = w.value
		}
	}
	return u
}

// denial: the names of what a filter or the kernel says no with.
func denial(answer string) bool { return answer == "EPERM" || answer == "EACCES" || answer == "ENOSYS" }

func allDenied(answers map[string]string) bool {
	for _, answer := range answers {
		if !denial(answer) {
			return false
		}
	}
	return len(answers) > 0
}

func notifies(variable string) bool { return strings.HasPrefix(variable, "NOTIFY_SOCKET=") }

// own: a namespace that is not the test's.
func (o observation) own(kind string) bool {
	return o.Namespaces[kind] != "" && o.Outside.Ours[kind] != "" && o.Namespaces[kind] != o.Outside.Ours[kind]
}

// oneID reports whether a map of ids knows just one.
func oneID(text string) bool {
	fields := strings.Fields(text)
	return len(fields) == 3 && fields[2] == "1"
}

func (o observation) arrived(words string) bool {
	return slices.ContainsFunc(o.Outside.Arrived, func(who string) bool { return strings.Contains(who, words) })
}

// sealed: nothing leaves, neither with a socket of its own nor with a given one.
func (o observation) sealed() bool {
	return o.own("net") && slices.Equal(o.Interfaces, []string{"lo"}) && len(o.Outside.Arrived) == 0
}

// denied: calls that the service got no further with, for whatever reason.
func (o observation) denied(calls ...string) bool {
	return !slices.ContainsFunc(calls, func(call string) bool { return !denial(o.Calls[call]) })
}

func (o observation) reads(files ...string) bool {
	return slices.ContainsFunc(files, func(file string) bool { return o.Kernel[file] == "" })
}

// refused lists the calls that a filter stops, which the kernel's own check of a
// capability is no replacement for. Where the filters can be read, they have to
// refuse the call whatever its arguments are; else the answer has to do.
func (o observation) refused() string {
	var calls []string
	for call, number := range numbers {
		if o.Outside.Status["Seccomp"] != "2" || !denial(o.Calls[call]) || slices.Contains(beyond, call) {
			continue
		}
		if o.Outside.Filters == nil || refuses(o.Outside.Filters, machine(), uint32(number)) {
			calls = append(calls, call)
		}
	}
	slices.Sort(calls)
	return strings.Join(calls, " ")
}

// noNamespaces lists the namespaces that can be had in no way: clone(2) and
// unshare(2) with this one, setns(2) and clone3(2), whose flags no filter sees, at all.
func (o observation) noNamespaces() string {
	var none []string
	for kind := range kinds {
		if denial(o.Clones[kind]) && denial(o.Unshares[kind]) && o.denied("clone3", "setns") {
			none = append(none, kind)
		}
	}
	slices.Sort(none)
	return strings.Join(none, " ")
}

// familyNames by number, linux/socket.h.
var familyNames = strings.Fields(`AF_UNSPEC AF_UNIX AF_INET AF_AX25 AF_IPX AF_APPLETALK AF_NETROM AF_BRIDGE AF_ATMPVC AF_X25
	AF_INET6 AF_ROSE AF_DECnet AF_NETBEUI AF_SECURITY AF_KEY AF_NETLINK AF_PACKET AF_ASH AF_ECONET AF_ATMSVC AF_RDS AF_SNA
	AF_IRDA AF_PPPOX AF_WANPIPE AF_LLC AF_IB AF_MPLS AF_CAN AF_TIPC AF_BLUETOOTH AF_IUCV AF_RXRPC AF_ISDN AF_PHONET
	AF_IEEE802154 AF_CAIF AF_ALG AF_NFC AF_VSOCK AF_KCM AF_QIPCRTR AF_SMC AF_XDP AF_MCTP`)

// families lists those that are not refused; "none" when all are.
func (o observation) families() string {
	var open []string
	for family := 1; family < len(familyNames); family++ {
		if answer := o.Families[family]; answer == "" || answer == "EINVAL" {
			open = append(open, familyNames[family])
		}
	}
	if len(open) == 0 {
		return "none"
	}
	return strings.Join(open, " ")
}

func (o observation) filtersFamilies() bool {
	return o.Outside.Status["Seccomp"] == "2" && len(strings.Fields(o.families())) < len(familyNames)-1
}

// native: the calls of the machine's other tables are refused, or are not there.
// Where the filters can be read they have to say so; else a program was run.
func (o observation) native() bool {
	const exit = 1
	if o.Outside.Status["Seccomp"] != "2" || runtime.GOARCH != "amd64" || !denial(o.X32) {
		return false
	}
	if o.Outside.Filters != nil {
		return refuses(o.Outside.Filters, machineI386, exit) && o.Program32 != "exit status 7"
	}
	return strings.HasPrefix(o.Program32, "signal: ") || o.Program32 == "ENOEXEC"
}

func (o observation) uid() string { return firstField(o.Outside.Status["Uid"]) }

func firstField(text string) string {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return "0"
	}
	return fields[0]
}

func (o observation) groups() string {
	groups := slices.DeleteFunc(strings.Fields(o.Outside.Status["Groups"]), func(group string) bool {
		return group == firstField(o.Outside.Status["Gid"])
	})
	return strings.Join(groups, " ")
}

func (o observation) capabilitySet(sets ...string) uint64 {
	var union uint64
	for _, set := range sets {
		mask, err := strconv.ParseUint(o.Outside.Status[set], 16, 64)
		if err != nil {
			return ^uint64(0)
		}
		union |= mask
	}
	return union
}

func (o observation) lacks(capability int) bool {
	return o.capabilitySet("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")&(1<<capability) == 0
}

// capabilities lists what is in any of the sets.
func (o observation) capabilities(sets ...string) string {
	union := o.capabilitySet(sets...)
	var names []string
	for name, number := range capabilityNumbers() {
		if union&(1<<number) != 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// pseudoDevices is what systemd lets a service with DevicePolicy=closed have,
// systemd.resource-control(5), without the terminals below /dev/pts.
var pseudoDevices = []string{"/dev/full", "/dev/null", "/dev/pts/ptmx", "/dev/random", "/dev/tty", "/dev/urandom", "/dev/zero"}

// homes is what ProtectHome= would have to say: of the user's own home there is at most an empty file system.
func (o observation) homes() string {
	others := slices.DeleteFunc(slices.Clone(o.Homes), func(path string) bool {
		return slices.ContainsFunc(o.mounts(), func(m mount) bool { return m.point == path && m.kind == "tmpfs" })
	})
	switch {
	case len(o.Homes) == 0:
		return "yes"
	case len(others) == 0:
		return "tmpfs"
	}
	return ""
}

func (o observation) onlyPseudoDevices() bool {
	others := slices.DeleteFunc(slices.Clone(o.Devices), func(path string) bool { return slices.Contains(pseudoDevices, path) })
	return len(others) == 0 && len(o.Devices) > 0 && o.Terminal != "" && denial(o.Mknod)
}

// noOtherDevices: a node in any other mount would be none.
func (o observation) noOtherDevices() bool {
	return !slices.ContainsFunc(o.mounts(), func(m mount) bool {
		return !slices.Contains(m.options, "nodev") && !slices.Contains(o.Devices, m.point) && m.kind != "devpts" // its nodes are in the list
	})
}

// mount is a line of /proc/PID/mountinfo, proc_pid_mountinfo(5).
type mount struct {
	device, point, kind string
	options, super      []string
}

func parseMounts(text string) []mount {
	var found []mount
	for line := range strings.Lines(text) {
		of, rest, ok := strings.Cut(line, " - ")
		fields, more := strings.Fields(of), strings.Fields(rest)
		if ok && len(fields) >= 6 && len(more) >= 3 {
			found = append(found, mount{device: fields[2], point: fields[4], kind: more[0],
				options: strings.Split(fields[5], ","), super: strings.Split(more[2], ",")})
		}
	}
	return found
}

func (o observation) mounts() []mount { return parseMounts(o.Mounts) }

func (m mount) writable() bool {
	return slices.Contains(m.options, "rw") && slices.Contains(m.super, "rw")
}

func (m mount) controlGroup() bool { return strings.HasPrefix(m.kind, "cgroup") }

func (m mount) delegated() bool { return m.controlGroup() && m.writable() }

func (m mount) onlyPids() bool { return m.kind == "proc" && slices.Contains(m.super, "subset=pid") }

// writesHost: a file system of the host that is writable here. The nodes in /dev
// are judged by other questions.
func (o observation) writesHost(m mount) bool {
	return m.writable() && o.ofHost(m.device) && !slices.Contains(o.Devices, m.point)
}

func (o observation) ofHost(device string) bool {
	return slices.ContainsFunc(parseMounts(o.Outside.HostMounts), func(m mount) bool { return m.device == device })
}

func (o observation) ownRoot() bool {
	return o.own("mnt") && slices.ContainsFunc(o.mounts(), func(m mount) bool {
		return filepath.Clean(m.point) == "/" && !o.ofHost(m.device)
	})
}
