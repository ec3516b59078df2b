package seccomp

import (
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// What the checks mean, call by call, told by the program itself.
func TestChecks(t *testing.T) {
	const ok = unix.Errno(0)
	plain, sealed := spec.Sandbox{}, spec.Sandbox{Seal: true}
	raw := spec.Sandbox{Capabilities: []string{"CAP_NET_RAW", "CAP_SYS_CHROOT"}}
	everything := spec.Sandbox{Syscalls: "any", Connect: "any"}
	free := spec.Sandbox{Syscalls: "any", Connect: "any", Seal: true}
	for _, test := range []struct {
		spec spec.Sandbox
		call string
		args [6]uint64
		want unix.Errno // asksSupervisor: a notification
	}{
		{plain, "mount", [6]uint64{}, unix.EPERM},
		{plain, "clone3", [6]uint64{}, unix.ENOSYS},
		{plain, "clone", [6]uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, ok},
		{plain, "clone", [6]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, unix.EPERM},
		{plain, "clone", [6]uint64{unix.CLONE_NEWNET}, unix.EPERM},
		{plain, "unshare", [6]uint64{unix.CLONE_FILES}, ok},
		{plain, "unshare", [6]uint64{unix.CLONE_FILES | unix.CLONE_NEWNS}, unix.EPERM},
		{plain, "unshare", [6]uint64{unix.CLONE_NEWTIME}, unix.EPERM},
		{plain, "personality", [6]uint64{0xffffffff}, ok},
		{plain, "personality", [6]uint64{0x40000}, unix.EPERM}, // ADDR_NO_RANDOMIZE
		{plain, "personality", [6]uint64{8}, unix.EPERM},       // PER_LINUX32
		{plain, "fchmod", [6]uint64{0, 0o755}, ok},
		{plain, "fchmod", [6]uint64{0, 0o4755}, unix.EPERM},
		{plain, "fchmodat", [6]uint64{0, 0, 0o2755}, unix.EPERM},
		{plain, "fchmodat2", [6]uint64{0, 0, 0o1777}, ok},
		{plain, "mkdirat", [6]uint64{0, 0, 0o2777}, unix.EPERM},
		{plain, "mknodat", [6]uint64{0, 0, unix.S_IFREG | 0o4755}, unix.EPERM},
		{plain, "openat", [6]uint64{0, 0, unix.O_RDONLY | unix.O_DIRECTORY, 0o6777}, ok}, // no mode
		{plain, "openat", [6]uint64{0, 0, unix.O_CREAT | unix.O_WRONLY, 0o644}, ok},
		{plain, "openat", [6]uint64{0, 0, unix.O_CREAT | unix.O_WRONLY, 0o4644}, unix.EPERM},
		{plain, "openat", [6]uint64{0, 0, unix.O_TMPFILE | unix.O_WRONLY, 0o4644}, unix.EPERM},
		{plain, "openat2", [6]uint64{}, unix.ENOSYS},
		{plain, "prlimit64", [6]uint64{0, unix.RLIMIT_CORE, 0, 1 << 40}, ok}, // to ask
		{plain, "prlimit64", [6]uint64{0, unix.RLIMIT_NOFILE, 1 << 40}, ok},
		{plain, "prlimit64", [6]uint64{0, unix.RLIMIT_CORE, 1 << 40}, saidYes},
		{plain, "prlimit64", [6]uint64{0, unix.RLIMIT_CORE, 8}, saidYes},
		{plain, "setrlimit", [6]uint64{unix.RLIMIT_CORE, 8}, saidYes},
		{plain, "setrlimit", [6]uint64{unix.RLIMIT_AS, 8}, ok},
		{spec.Sandbox{Cores: true}, "setrlimit", [6]uint64{unix.RLIMIT_CORE, 8}, ok},
		{free, "fchmod", [6]uint64{0, 0o4755}, ok},
		{plain, "prctl", [6]uint64{unix.PR_SET_NAME}, ok},
		{plain, "prctl", [6]uint64{unix.PR_SET_MM}, unix.EPERM},
		{plain, "prctl", [6]uint64{1<<32 | unix.PR_SET_PTRACER}, unix.EPERM}, // the kernel takes an int

		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK}, ok},
		{plain, "socket", [6]uint64{unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP}, ok},
		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}, ok},
		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP}, unix.EPROTONOSUPPORT},
		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP}, unix.EPERM},
		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_PACKET}, unix.EPERM},
		{plain, "socket", [6]uint64{unix.AF_INET, unix.SOCK_SEQPACKET}, unix.ESOCKTNOSUPPORT},
		{plain, "socket", [6]uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET}, ok},
		{plain, "socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, ok},
		{plain, "socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, unix.EPROTONOSUPPORT},
		{plain, "socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
		{plain, "socket", [6]uint64{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
		{plain, "socket", [6]uint64{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EAFNOSUPPORT},
		{plain, "socketpair", [6]uint64{unix.AF_UNIX, unix.SOCK_STREAM}, ok},
		{plain, "socketpair", [6]uint64{unix.AF_TIPC, unix.SOCK_STREAM}, unix.EAFNOSUPPORT},
		{raw, "socket", [6]uint64{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, ok},
		{raw, "socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, unix.EAFNOSUPPORT},
		{raw, "chroot", [6]uint64{}, ok},
		{plain, "chroot", [6]uint64{}, unix.EPERM},

		{plain, "connect", [6]uint64{}, unix.EPERM},
		{sealed, "connect", [6]uint64{}, unix.EPERM},
		{spec.Sandbox{Connect: "unix"}, "connect", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Connect: "any"}, "connect", [6]uint64{}, ok},
		{spec.Sandbox{Connect: "any", Seal: true}, "connect", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Connect: "unix", Seal: true}, "bind", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Connect: "unix", Seal: true}, "listen", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Connect: "unix"}, "bind", [6]uint64{}, ok},
		{spec.Sandbox{Reports: true}, "connect", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Reports: true, Seal: true}, "connect", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Reports: true, Seal: true}, "listen", [6]uint64{}, ok},
		{spec.Sandbox{Reports: true, Connect: "any"}, "connect", [6]uint64{}, ok},
		{spec.Sandbox{Bind: true}, "bind", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Bind: true, Syscalls: "any", Connect: "any"}, "listen", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Bind: true, Seal: true}, "bind", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Bind: true, Seal: true}, "listen", [6]uint64{}, asksSupervisor},
		{spec.Sandbox{Bind: true, Seal: true}, "connect", [6]uint64{}, unix.EPERM},
		{spec.Sandbox{Bind: true, Connect: "any"}, "connect", [6]uint64{}, ok},
		{plain, "bind", [6]uint64{}, ok},
		{sealed, "bind", [6]uint64{}, ok}, // Landlock's
		{sealed, "listen", [6]uint64{}, ok},

		{plain, "sendto", [6]uint64{0, 0, 0, unix.MSG_FASTOPEN}, ok},
		{sealed, "sendto", [6]uint64{0, 0, 0, unix.MSG_FASTOPEN}, unix.EPERM},
		{sealed, "sendto", [6]uint64{0, 0, 0, unix.MSG_FASTOPEN | unix.MSG_NOSIGNAL | 1<<40}, unix.EPERM},
		{sealed, "sendto", [6]uint64{0, 0, unix.MSG_FASTOPEN, unix.MSG_NOSIGNAL}, ok},
		{sealed, "sendmmsg", [6]uint64{0, 0, 0, unix.MSG_FASTOPEN}, unix.EPERM},
		{sealed, "sendmsg", [6]uint64{0, 0, unix.MSG_FASTOPEN}, unix.EPERM},
		{sealed, "sendmsg", [6]uint64{0, 0, unix.MSG_ZEROCOPY, unix.MSG_FASTOPEN}, ok},

		{plain, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, ok},
		{sealed, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_KEEPALIVE}, ok},
		{sealed, "setsockopt", [6]uint64{0, 1<<32 | unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, unix.ENOPROTOOPT},
		{sealed, "setsockopt", [6]uint64{0, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}, unix.ENOPROTOOPT},
		{sealed, "setsockopt", [6]uint64{0, unix.IPPROTO_TCP, unix.TCP_REPAIR}, unix.ENOPROTOOPT},
		{sealed, "setsockopt", [6]uint64{0, unix.SOL_UDP, unix.UDP_ENCAP}, unix.ENOPROTOOPT},
		{sealed, "setsockopt", [6]uint64{0, 0xffff, 1}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_LOCK_FILTER}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, asksSupervisor},
		{free, "setsockopt", [6]uint64{0, unix.IPPROTO_IPV6, unix.MCAST_JOIN_SOURCE_GROUP}, asksSupervisor},
		{sealed, "setsockopt", [6]uint64{0, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, unix.ENOPROTOOPT},
		// With a pointer or a descriptor in its value: nothing for a supervisor.
		{free, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_ATTACH_BPF}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}, unix.ENOPROTOOPT},
		{free, "setsockopt", [6]uint64{0, unix.IPPROTO_TCP, unix.TCP_ULP}, unix.ENOPROTOOPT},

		{plain, "ioctl", [6]uint64{0, unix.TIOCSTI}, unix.EPERM},
		{plain, "ioctl", [6]uint64{0, 1<<32 | unix.TIOCSTI}, unix.EPERM},
		{plain, "ioctl", [6]uint64{0, unix.TIOCGWINSZ}, ok},
		{plain, "ioctl", [6]uint64{0, unix.SIOCGIFCONF}, ok},
		{sealed, "ioctl", [6]uint64{0, unix.SIOCGIFCONF}, unix.EPERM},
		{sealed, "ioctl", [6]uint64{0, unix.SIOCGSKNS}, unix.EPERM},
		{sealed, "ioctl", [6]uint64{0, 0x8bff}, unix.EPERM},
		{sealed, "ioctl", [6]uint64{0, 0x8905}, ok}, // SIOCATMARK
		{sealed, "ioctl", [6]uint64{0, unix.TIOCINQ}, ok},
		{free, "ioctl", [6]uint64{0, unix.TIOCSTI}, ok},
		{free, "ioctl", [6]uint64{0, unix.SIOCGIFCONF}, unix.EPERM},

		{free, "mount", [6]uint64{}, ok},
		{free, "socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, ok},
		{free, "io_uring_setup", [6]uint64{}, unix.ENOSYS},
		{spec.Sandbox{Syscalls: "any"}, "io_uring_setup", [6]uint64{}, unix.ENOSYS},
		{spec.Sandbox{Syscalls: "any"}, "connect", [6]uint64{}, unix.EPERM},
		{spec.Sandbox{Syscalls: "any"}, "ioctl", [6]uint64{0, unix.TIOCSTI}, ok},
		{everything, "io_uring_setup", [6]uint64{}, ok},
	} {
		for _, m := range []machine{amd64, arm64} {
			if got := askProfile(test.spec, t, m, test.call, test.args, true); got != test.want {
				t.Errorf("%+v: %s%x: %v, not %v", test.spec, test.call, test.args, got, test.want)
			}
		}
	}
}

// Before Landlock has TCP rules an address that fits an internet socket is
// refused.
func TestBindWithoutLandlock(t *testing.T) {
	for length, want := range map[uint64]unix.Errno{0: unix.EPERM, 2: unix.EPERM, 12: 0, 16: unix.EPERM, 28: unix.EPERM, 110: unix.EPERM} {
		if got := askProfile(spec.Sandbox{Seal: true}, t, amd64, "bind", [6]uint64{0, 0, length}, false); got != want {
			t.Errorf("%d: %v, not %v", length, got, want)
		}
	}
}

const asksSupervisor = unix.Errno(4096)

// saidYes: the call is told that it succeeded, and not made.
const saidYes = unix.Errno(4097)

// askProfile is the errno that the filter of s gives a call; 0: it passes.
func askProfile(s spec.Sandbox, t *testing.T, m machine, name string, args [6]uint64, tcp bool) unix.Errno {
	t.Helper()
	var keep uint64
	for _, capability := range s.Capabilities {
		bit, ok := spec.ParseCapability(capability)
		if !ok {
			t.Fatal(capability)
		}
		keep |= 1 << bit
	}
	number := none
	for _, g := range groups {
		for _, c := range g.calls {
			if c.name == name {
				number = m.number(c)
			}
		}
	}
	if number == none {
		t.Fatalf("%s: no such call", name)
	}
	p := NewProfile(s, keep, tcp)
	if p.refusesNothing() {
		return 0
	}
	answer, _ := interpret(t, assemble(p.wholeVerdict(m)), Call{Number: uint32(number), Machine: m.audit, Args: args})
	switch answer & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW:
		return 0
	case unix.SECCOMP_RET_USER_NOTIF:
		return asksSupervisor
	case unix.SECCOMP_RET_ERRNO:
		if errno := unix.Errno(answer & unix.SECCOMP_RET_DATA); errno != 0 {
			return errno
		}
		return saidYes
	}
	t.Fatalf("%#x", answer)
	return 0
}

// What is refused on purpose stays refused.
func TestOptionsRefused(t *testing.T) {
	for _, at := range [][2]uint64{
		{unix.SOL_SOCKET, unix.SO_ATTACH_FILTER}, {unix.SOL_SOCKET, unix.SO_DETACH_FILTER}, {unix.SOL_SOCKET, unix.SO_ATTACH_BPF},
		{unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF}, {unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_EBPF}, {unix.SOL_SOCKET, unix.SO_LOCK_FILTER},
		{unix.SOL_SOCKET, unix.SO_BINDTODEVICE}, {unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX}, {unix.SOL_SOCKET, unix.SO_MARK},
		{unix.SOL_SOCKET, unix.SO_PASSRIGHTS}, {unix.SOL_SOCKET, unix.SO_PEEK_OFF}, {unix.SOL_SOCKET, unix.SO_INCOMING_CPU},
		{unix.SOL_SOCKET, unix.SO_DONTROUTE}, {unix.SOL_SOCKET, unix.SO_RCVLOWAT}, {unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE},
		{unix.IPPROTO_TCP, unix.TCP_MD5SIG}, {unix.IPPROTO_TCP, unix.TCP_MD5SIG_EXT}, {unix.IPPROTO_TCP, unix.TCP_ULP},
		{unix.IPPROTO_TCP, unix.TCP_REPAIR}, {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT}, {unix.IPPROTO_TCP, unix.TCP_FASTOPEN_KEY},
		{unix.IPPROTO_IP, unix.IP_OPTIONS}, {unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP}, {unix.IPPROTO_IP, unix.IP_MULTICAST_IF},
		{unix.IPPROTO_IP, unix.IP_TRANSPARENT}, {unix.IPPROTO_IP, unix.IP_FREEBIND}, {unix.IPPROTO_IP, unix.IP_UNICAST_IF},
		{unix.IPPROTO_IP, unix.IP_XFRM_POLICY}, {unix.IPPROTO_IP, unix.IP_IPSEC_POLICY}, {unix.IPPROTO_IP, unix.IP_MINTTL}, {unix.IPPROTO_IP, unix.IP_TTL},
		{unix.IPPROTO_IPV6, unix.IPV6_ADDRFORM}, {unix.IPPROTO_IPV6, unix.IPV6_RTHDR}, {unix.IPPROTO_IPV6, unix.IPV6_JOIN_ANYCAST},
		{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT}, {unix.IPPROTO_IPV6, unix.IPV6_FREEBIND}, {unix.IPPROTO_IPV6, unix.IPV6_PKTINFO},
		{unix.IPPROTO_UDP, unix.UDP_ENCAP}, {unix.SOL_TLS, 1},
	} {
		if got := askProfile(spec.Sandbox{Seal: true}, t, amd64, "setsockopt", [6]uint64{0, at[0], at[1]}, true); got != unix.ENOPROTOOPT {
			t.Errorf("level %d, option %d: %v", at[0], at[1], got)
		}
	}
}
