package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// Parts of the kernel that a network service has no use for. Each is a piece of
// attack surface; "achieved" is that it answers.
func kernelProbes() []probe {
	rows := []struct {
		name, tries, means string
		run                func(*mission) (string, error)
	}{
		{"raw-socket", "socket(AF_INET, SOCK_RAW)", "a socket", newSocket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{"packet-socket", "socket(AF_PACKET)", "a socket", newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0)},
		{"vsock", "socket(AF_VSOCK), bind() and listen()", "a socket that listens to virtual machines", vsock},
		{"netlink-audit", "socket(NETLINK_AUDIT)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT)},
		{"netlink-uevent", "socket(NETLINK_KOBJECT_UEVENT)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_KOBJECT_UEVENT)},
		{"netlink-sock-diag", "socket(NETLINK_SOCK_DIAG)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)},
		{"netlink-xfrm", "socket(NETLINK_XFRM)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM)},
		{"netlink-netfilter", "socket(NETLINK_NETFILTER)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)},
		{"netlink-generic", "socket(NETLINK_GENERIC)", "a socket", newSocket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)},
		{"netlink-high-bits", "socket(NETLINK_SOCK_DIAG) with bits above the 32 that the kernel looks at", "a socket", func(*mission) (string, error) {
			return "a socket", at("socket", call(unix.SYS_SOCKET, unix.AF_NETLINK|highBit, unix.SOCK_RAW|highBit, unix.NETLINK_SOCK_DIAG|highBit))
		}},
		{"bpf", "bpf(BPF_MAP_CREATE)", "a map", bpf},
		{"perf", "perf_event_open() on itself", "a counter", perfEvent},
		{"userfaultfd", "userfaultfd()", "a descriptor", userFault},
		{"io-uring", "io_uring_setup()", "a ring", func(*mission) (string, error) {
			_, err := newRing()
			return "made a ring", err
		}},
		{"fanotify", "fanotify_init()", "a descriptor", func(*mission) (string, error) {
			const reportFID = 0x200 // an ordinary user's, Linux 5.13
			_, err := unix.FanotifyInit(unix.FAN_CLOEXEC|reportFID, 0)
			return "made a group", at("fanotify_init", err)
		}},
		{"add-key", "add_key() to its own process's keyring", "a key", func(*mission) (string, error) {
			_, err := unix.AddKey("user", "intruder", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return "made a key", at("add_key", err)
		}},
		{"kernel-log", "syslog(SYSLOG_ACTION_READ_ALL)", "the kernel's log", func(*mission) (string, error) {
			_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 4096))
			return "read the kernel's log", at("syslog", err)
		}},
		{"kcmp", "kcmp() on itself", "compared", func(*mission) (string, error) {
			pid := uintptr(unix.Getpid())
			return "compared", at("kcmp", call(unix.SYS_KCMP, pid, pid, 1, 0, 0))
		}},
		{"personality", "personality(READ_IMPLIES_EXEC)", "set", func(*mission) (string, error) {
			const readImpliesExec = 0x400000
			return "set", at("personality", call(unix.SYS_PERSONALITY, readImpliesExec))
		}},
		{"ptrace-child", "ptrace(PTRACE_SEIZE) of a child of its own", "traced", traceChild},
		{"process-vm", "process_vm_readv() of itself", "read", func(m *mission) (string, error) {
			text := []byte(m.Nonce + m.Nonce)
			return m.readMemory(unix.Getpid(), fmt.Sprintf("%#x", addressOf(text)))
		}},
		{"exotic-socket", "sockets of " + familyNames(), "a socket of any of them", exoticSocket},
		{"new-privileges", "PR_GET_NO_NEW_PRIVS", "set-uid programs would be honoured", func(*mission) (string, error) {
			set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
			if err == nil && set != 0 {
				return "", errors.New("no_new_privs is set")
			}
			return "not set", at("prctl", err)
		}},
		{"module", "finit_module() without a file: the right is asked for first", "only the file is refused", func(*mission) (string, error) {
			err := unix.FinitModule(-1, "", 0)
			if errors.Is(err, unix.EBADF) {
				return "only the file is refused", nil
			}
			return "", at("finit_module", err)
		}},
		{"hostname", "sethostname() to what it is", "the kernel takes it", func(*mission) (string, error) {
			var names unix.Utsname
			if err := unix.Uname(&names); err != nil {
				return "", at("uname", err)
			}
			return "renamed the machine", at("sethostname", unix.Sethostname([]byte(unix.ByteSliceToString(names.Nodename[:]))))
		}},
		{"domainname", "setdomainname() to what it is", "the kernel takes it", func(*mission) (string, error) {
			var names unix.Utsname
			if err := unix.Uname(&names); err != nil {
				return "", at("uname", err)
			}
			return "renamed the domain", at("setdomainname", unix.Setdomainname([]byte(unix.ByteSliceToString(names.Domainname[:]))))
		}},
		{"swap", "swapon() of nothing: the right is asked for first", "only the path is refused", refusedLater("swapon", unix.ENOENT, func() error {
			path := []byte("/nowhere\x00")
			return call(unix.SYS_SWAPON, uintptr(unsafe.Pointer(&path[0])), 0)
		})},
		{"accounting", "acct() to nothing: the right is asked for first", "only the path is refused", refusedLater("acct", unix.ENOENT, func() error {
			return unix.Acct("/nowhere")
		})},
		{"kexec", "kexec_load() with flags that there are not: the right is asked for first", "only the flags are refused", refusedLater("kexec_load", unix.EINVAL, func() error {
			return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0xffff)
		})},
		{"clock-status", "adjtimex() with the status it has", "the kernel takes it", func(*mission) (string, error) {
			var now unix.Timex
			if _, err := unix.Adjtimex(&now); err != nil {
				return "", at("adjtimex", err)
			}
			const status = 0x10 // ADJ_STATUS
			now.Modes = status
			_, err := unix.Adjtimex(&now)
			return "set the clock's status", at("adjtimex", err)
		}},
		{"list-mounts", "listmount() of the root's mount", "the mounts are listed", func(*mission) (string, error) {
			const root = ^uint64(0) // LSMT_ROOT
			request := [3]uint64{24, root}
			list := make([]uint64, 64)
			n, err := valueOf(unix.SYS_LISTMOUNT, uintptr(unsafe.Pointer(&request)), uintptr(unsafe.Pointer(&list[0])), uintptr(len(list)), 0)
			return fmt.Sprintf("listed %d mounts", n), at("listmount", err)
		}},
		{"clock", "clock_settime() with the time it is", "the kernel takes it", setClock},
		{"reboot", "reboot() without its magic numbers: the right is asked for first", "only the numbers are refused", reboot},
	}
	var all []probe
	for _, r := range rows {
		all = append(all, probe{wire.Probe{Name: r.name, Group: "kernel", Tries: r.tries, Means: r.means, Witness: wire.WitnessKernel}, r.run})
	}
	return all
}

// refusedLater is a call that is harmless as it is made: the right to make it is asked for before what is wrong
// with it is seen.
func refusedLater(step string, later unix.Errno, f func() error) func(*mission) (string, error) {
	return func(*mission) (string, error) {
		if err := f(); err != later {
			return "", at(step, fmt.Errorf("%w", err))
		}
		return "only what is wrong with it is refused", nil
	}
}

func newSocket(family, kind, protocol int) func(*mission) (string, error) {
	return func(*mission) (string, error) {
		_, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, protocol)
		return "a socket", at("socket", err)
	}
}

// vsock listens, and connects to nothing: the hypervisor is not ours to try.
func vsock(*mission) (string, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", at("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: unix.VMADDR_PORT_ANY}); err != nil {
		return "", at("bind", err)
	}
	return "listened", at("listen", unix.Listen(fd, 1))
}

func bpf(*mission) (string, error) {
	attr := struct{ kind, key, value, entries uint32 }{unix.BPF_MAP_TYPE_ARRAY, 4, 4, 1}
	err := call(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return "made a map", at("bpf", err)
}

func perfEvent(*mission) (string, error) {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_TASK_CLOCK,
		Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
	_, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	return "made a counter", at("perf_event_open", err)
}

func userFault(*mission) (string, error) {
	const userModeOnly = 1 // an ordinary user's, Linux 5.11
	err := call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|userModeOnly)
	return "made a descriptor", at("userfaultfd", err)
}

func setClock(*mission) (string, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return "", at("clock_gettime", err)
	}
	return "set the clock", at("clock_settime", unix.ClockSettime(unix.CLOCK_REALTIME, &now))
}

// reboot(2): the right is checked before the magic, the magic before the command.
// Without the magic nothing can happen.
func reboot(*mission) (string, error) {
	err := call(unix.SYS_REBOOT, 0, 0, 0, 0)
	if errors.Is(err, unix.EINVAL) {
		return "only the magic is refused", nil
	}
	return "", at("reboot", fmt.Errorf("%w", err))
}

// exotic families of sockets, each a large piece of seldom used kernel. Many take
// root, or a module that is loaded on demand.
var exotic = []struct {
	name         string
	family, kind int
}{
	{"AF_ALG", unix.AF_ALG, unix.SOCK_SEQPACKET}, {"AF_CAN", unix.AF_CAN, unix.SOCK_RAW}, {"AF_TIPC", unix.AF_TIPC, unix.SOCK_RDM},
	{"AF_RDS", unix.AF_RDS, unix.SOCK_SEQPACKET}, {"AF_BLUETOOTH", unix.AF_BLUETOOTH, unix.SOCK_STREAM}, {"AF_X25", unix.AF_X25, unix.SOCK_SEQPACKET},
	{"AF_KEY", unix.AF_KEY, unix.SOCK_RAW}, {"AF_XDP", unix.AF_XDP, unix.SOCK_RAW}, {"AF_SMC", unix.AF_SMC, unix.SOCK_STREAM},
	{"AF_QIPCRTR", unix.AF_QIPCRTR, unix.SOCK_DGRAM}, {"AF_PPPOX", unix.AF_PPPOX, unix.SOCK_DGRAM}, {"AF_LLC", unix.AF_LLC, unix.SOCK_DGRAM},
	{"AF_KCM", unix.AF_KCM, unix.SOCK_DGRAM}, {"AF_PHONET", unix.AF_PHONET, unix.SOCK_DGRAM}, {"AF_NFC", unix.AF_NFC, unix.SOCK_SEQPACKET},
}

func familyNames() string {
	var names []string
	for _, e := range exotic {
		names = append(names, e.name)
	}
	return strings.Join(names, ", ")
}

func exoticSocket(*mission) (string, error) {
	var refused []string
	for _, e := range exotic {
		_, err := unix.Socket(e.family, e.kind|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			return "a socket of " + e.name, nil
		}
		refused = append(refused, at(e.name, err).Error())
	}
	return "", errors.New("socket: " + strings.Join(refused, ", "))
}

func traceChild(*mission) (string, error) {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"intruder", "sleep"}, nil)
	if err != nil {
		return "", at("fork", err)
	}
	err = call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, 0)
	_ = unix.Kill(pid, unix.SIGKILL)
	_, waited := wait(pid)
	return "traced a child", errors.Join(at("ptrace PTRACE_SEIZE", err), waited)
}
