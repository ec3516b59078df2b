package escape

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"activator/internal/ktest"
	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// excuseFor is a reason why a probe cannot work even without isolation, and what
// it then has to say: another failure is the probe's own.
type excuseFor struct {
	probes string // names
	when   func(*testing.T) bool
	says   []string // one of these
	why    string
}

var excuses = []excuseFor{
	{"tcp-reset-rebind tcp-shutdown-rebind", always, []string{"listen: EINVAL"}, "a dead connection cannot listen: inet_listen of the kernel wants it unconnected"},
	{"tcp-listener-dissolve tcp-listener-dissolve-v6 tcp-listener-dissolve-mapped tcp-listener-shutdown tcp-fastopen-connect " +
		"tcp-fastopen-sendto tcp-fastopen-sendmsg tcp-fastopen-sendmmsg tcp-fastopen-high-bits io-uring-fastopen", listenersStay,
		[]string{"connect: EINVAL", "sendto: EINVAL", "sendmsg: EINVAL", "sendmmsg: EINVAL"}, "a kernel that connects nothing that has listened"},
	{"tcp-listener-swap", listenersStay, []string{"connect: "}, "the same; its last error is that of either socket"},
	{"tcp-accepted-rebind tcp-accepted-listen", connectionsStay, []string{"listen: EINVAL"}, "a kernel that lets nothing listen that was connected"},
	{"tcp-int80-connect", always, []string{"no 32-bit gate"}, "a machine without 32-bit calls: not amd64, or a processor that faults at int 0x80"},
	{"mptcp-own-socket mptcp-own-socket-v6 mptcp-own-listen", always, []string{"EPROTONOSUPPORT", "ENOPROTOOPT"}, "a kernel without MPTCP"},
	{"list-mounts", always, []string{"ENOSYS"}, "a kernel before 6.8"},
	{"domainname swap accounting kexec clock-status process-advice", ordinary, []string{"EPERM"}, "takes root"},
	{"swap accounting kexec", always, []string{"ENOSYS"}, "a kernel without it"},
	{"ipc-memory ipc-queue ipc-semaphore", always, []string{"function not implemented"}, "a kernel without System V's"},
	{"tcp-x32-connect", always, []string{"ENOSYS"}, "a kernel without the x32 table"},
	{"tcp-ulp", always, []string{"ENOENT"}, "a kernel without TLS"},
	{"udp-source-route", ordinary, []string{"EPERM"}, "a source route takes CAP_NET_RAW, ip_options_compile of the kernel"},
	{"udp-link udp-link-pktinfo udp-link-v4 udp-link-loopback", ordinary, []string{"no witness"}, "takes a network of its own with two links, which is root's"},
	{"udp-link udp-link-pktinfo udp-link-v4 udp-link-loopback", func(*testing.T) bool { return !canMakeLinks() }, []string{"no witness"}, "a kernel without /dev/net/tun"},
	{"poison-filter-tcp", ordinary, []string{"SO_ATTACH_FILTER: EPERM"}, "newer kernels let an ordinary user attach filters to datagram sockets only"},
	{"ioctl-interfaces ioctl-interfaces-high-bits", lonely, []string{"none of the host's"}, "the host has only lo"},
	{"poison-device-tcp poison-device-udp", lonely, []string{"ENODEV"}, "the host has only lo"},
	{"ioctl-change ioctl-netns rights-netns setns", ordinary, []string{"EPERM"}, "takes root"},
	{"device-mode handle chroot mknod mount fsmount open-tree remount umount pivot-root unshare", ordinary, []string{"EPERM"}, "takes root"},
	{"device sysctl sysrq sys-write", ordinary, []string{"EACCES"}, "takes root"},
	{"device", logRestricted, []string{"/dev/kmsg: EPERM"}, "kernel.dmesg_restrict"},
	{"device", func(*testing.T) bool { return noFile("/dev/kmsg") }, []string{"none to be seen"}, "a host without devices"},
	{"sysrq", func(*testing.T) bool { return noFile("/proc/sysrq-trigger") }, []string{"ENOENT"}, "a kernel without it"},
	{"sys-write", func(*testing.T) bool { return noFile("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag") }, []string{"ENOENT"}, "a kernel without it"},
	{"raw-socket packet-socket bpf clock reboot module hostname", ordinary, []string{"EPERM"}, "takes root"},
	{"kernel-log", logRestricted, []string{"EPERM"}, "kernel.dmesg_restrict"},
	{"perf", func(t *testing.T) bool { return ordinary(t) && sysctl("kernel/perf_event_paranoid", 2) > 2 }, []string{"EACCES"}, "kernel.perf_event_paranoid"},
	{"io-uring io-uring-connect io-uring-fastopen io-uring-sendmsg", func(*testing.T) bool { return sysctl("kernel/io_uring_disabled", 0) > 0 }, []string{"EPERM"}, "kernel.io_uring_disabled"},
	{"tiocsti tiocsti-high-bits", func(*testing.T) bool { return sysctl("dev/tty/legacy_tiocsti", 1) == 0 }, []string{"EIO"}, "dev.tty.legacy_tiocsti"},
	{"vsock", always, []string{"EAFNOSUPPORT", "EADDRNOTAVAIL"}, "a kernel without vsock"},
	{"netlink-netfilter netlink-xfrm", always, []string{"EPROTONOSUPPORT"}, "a kernel without it, or with it in a module that nobody has loaded"},
	{"mknod", nodev("/tmp"), []string{"open: EACCES"}, "/tmp is mounted nodev"},
	{"set-uid", inMemory, []string{"is gone with us", "has nosuid", "create in .: EACCES"}, "the host has no folder on a disk to write to"},
	{"peer-signal peer-getfd", always, []string{"ENOPROTOOPT"}, "a kernel before 6.5"},
	{"poison-md5", always, []string{"ENOPROTOOPT"}, "a kernel without signatures"},
	{"user-namespace", func(t *testing.T) bool {
		return ordinary(t) && sysctl("kernel/apparmor_restrict_unprivileged_userns", 0) > 0
	}, []string{"EPERM", "EACCES"}, "kernel.apparmor_restrict_unprivileged_userns"},
	{"module", always, []string{"ENOSYS"}, "a kernel without modules"},
	{"exotic-socket", always, []string{"AF_ALG: EAFNOSUPPORT"}, "a kernel with none that we may have"},
	{"new-privileges", inherits, []string{"no_new_privs is set"}, "we have it already"},
	{"raise-limits", unprivileged, []string{"EPERM"}, "takes CAP_SYS_RESOURCE"},
	{"priority realtime", ordinary, []string{"EACCES", "EPERM"}, "takes root"},
}

// excuse returns why a probe may fail without isolation, "" if it may not.
func excuse(t *testing.T, r wire.Result) string {
	for _, e := range excuses {
		if !slices.Contains(strings.Fields(e.probes), r.Probe) || !e.when(t) {
			continue
		}
		for _, words := range e.says {
			if strings.Contains(r.How, words) {
				return e.why
			}
		}
	}
	return ""
}

func always(*testing.T) bool            { return true }
func ordinary(*testing.T) bool          { return os.Getuid() != 0 }
func listenersStay(t *testing.T) bool   { return ktest.ListenersStay(t) }
func connectionsStay(t *testing.T) bool { return ktest.ConnectionsStay(t) }
func lonely(t *testing.T) bool          { return len(hostInterfaces(t)) == 0 }

// logRestricted reports whether the kernel's log is root's.
func logRestricted(t *testing.T) bool {
	return ordinary(t) && sysctl("kernel/dmesg_restrict", 0) > 0
}

// inherits reports whether we cannot gain privileges ourselves.
func inherits(*testing.T) bool {
	set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err != nil || set != 0
}

// nodev reports whether a folder is mounted so, statfs(2).
func nodev(folder string) func(*testing.T) bool {
	return func(*testing.T) bool {
		var fs unix.Statfs_t
		return unix.Statfs(folder, &fs) == nil && fs.Flags&unix.ST_NODEV != 0
	}
}

// inMemory reports whether the host's own root is a tmpfs, as where it has been booted from
// the network.
func inMemory(*testing.T) bool {
	var fs unix.Statfs_t
	return unix.Statfs("/", &fs) == nil && fs.Type == unix.TMPFS_MAGIC
}

func noFile(path string) bool {
	_, err := os.Stat(path)
	return err != nil
}

// unprivileged reports whether we lack CAP_SYS_RESOURCE.
func unprivileged(*testing.T) bool {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(text), "CapEff:\t")
	effective, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	return err != nil || effective&(1<<unix.CAP_SYS_RESOURCE) == 0
}

// sysctl is a number of /proc/sys; missing stands for a kernel without it.
func sysctl(name string, missing int) int {
	text, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return missing
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return missing
	}
	return n
}

// An excuse is for a probe that there is.
func TestExcusesAreForProbes(t *testing.T) {
	all := allProbes(t)
	for _, e := range excuses {
		for _, name := range strings.Fields(e.probes) {
			if !slices.ContainsFunc(all, func(p wire.Probe) bool { return p.Name == name }) {
				t.Errorf("no probe %s", name)
			}
		}
	}
}
