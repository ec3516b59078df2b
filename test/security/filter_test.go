package security

import (
	"encoding/binary"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// filter is a seccomp filter as the kernel runs it, seccomp(2).
type filter []unix.SockFilter

// Offsets in struct seccomp_data; the arguments are the rest.
const (
	offsetNumber  = 0
	offsetMachine = 4
	offsetArgs    = 16
)

const machineI386 = unix.AUDIT_ARCH_I386

func machine() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}

// refuses reports whether the filters refuse a call whatever its arguments are:
// the answer is an error or worse, and no argument was looked at on the way.
func refuses(filters []filter, machine, number uint32) bool {
	for _, f := range filters {
		data := make([]byte, 64)
		binary.NativeEndian.PutUint32(data[offsetNumber:], number)
		binary.NativeEndian.PutUint32(data[offsetMachine:], machine)
		action, looked := f.run(data)
		switch action & unix.SECCOMP_RET_ACTION_FULL {
		case unix.SECCOMP_RET_ERRNO, unix.SECCOMP_RET_TRAP, unix.SECCOMP_RET_KILL_THREAD, unix.SECCOMP_RET_KILL_PROCESS:
			if !looked {
				return true
			}
		}
	}
	return false
}

// run interprets the filter, and says whether it looked at an argument. An
// instruction that it does not know kills, as far as the kernel would take it.
func (f filter) run(data []byte) (action uint32, looked bool) {
	var a, x uint32
	var memory [16]uint32
	for pc := 0; pc < len(f); pc++ {
		i := f[pc]
		operand := i.K
		if i.Code&unix.BPF_X != 0 {
			operand = x
		}
		switch i.Code & 7 {
		case unix.BPF_LD:
			a = f.load(i, data, memory)
			looked = looked || i.Code&0xe0 == unix.BPF_ABS && i.K >= offsetArgs
		case unix.BPF_LDX:
			x = f.load(i, data, memory)
		case unix.BPF_ST:
			memory[i.K&15] = a
		case unix.BPF_STX:
			memory[i.K&15] = x
		case unix.BPF_ALU:
			a = calculate(i.Code, a, operand)
		case unix.BPF_JMP:
			pc += jump(i, a, operand)
		case unix.BPF_RET:
			if i.Code&0x18 == unix.BPF_A {
				return a, looked
			}
			return i.K, looked
		case unix.BPF_MISC:
			if i.Code&unix.BPF_TXA != 0 {
				a = x
			} else {
				x = a
			}
		}
	}
	return unix.SECCOMP_RET_ALLOW, looked // no filter ends so
}

func (f filter) load(i unix.SockFilter, data []byte, memory [16]uint32) uint32 {
	switch i.Code & 0xe0 {
	case unix.BPF_IMM:
		return i.K
	case unix.BPF_MEM:
		return memory[i.K&15]
	case unix.BPF_LEN:
		return uint32(len(data))
	}
	return binary.NativeEndian.Uint32(data[i.K:])
}

func calculate(code uint16, a, b uint32) uint32 {
	switch code & 0xf0 {
	case unix.BPF_ADD:
		return a + b
	case unix.BPF_SUB:
		return a - b
	case unix.BPF_MUL:
		return a * b
	case unix.BPF_OR:
		return a | b
	case unix.BPF_AND:
		return a & b
	case unix.BPF_XOR:
		return a ^ b
	case unix.BPF_LSH:
		return a << b
	case unix.BPF_RSH:
		return a >> b
	case unix.BPF_NEG:
		return -a
	}
	return a
}

func jump(i unix.SockFilter, a, b uint32) int {
	var taken bool
	switch i.Code & 0xf0 {
	case unix.BPF_JA:
		return int(i.K)
	case unix.BPF_JEQ:
		taken = a == b
	case unix.BPF_JGT:
		taken = a > b
	case unix.BPF_JGE:
		taken = a >= b
	case unix.BPF_JSET:
		taken = a&b != 0
	}
	if taken {
		return int(i.Jt)
	}
	return int(i.Jf)
}

// filterOurselves puts this process under a filter: other machines' calls, the
// groups @swap and @debug, families but the common four, and reboot(2) with a
// first argument of 0, which is what is tried, are refused.
func filterOurselves() error {
	const load, equal, atLeast = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	answer := func(action, errno uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action | errno}
	}
	refuse, allow := answer(unix.SECCOMP_RET_ERRNO, uint32(unix.EPERM)), answer(unix.SECCOMP_RET_ALLOW, 0)
	f := filter{{Code: load, K: offsetMachine}, {Code: equal, K: machine(), Jt: 1}, refuse,
		{Code: load, K: offsetNumber}, {Code: atLeast, K: 0x40000000, Jf: 1}, refuse}
	for _, call := range append(members("@swap"), members("@debug")...) {
		f = append(f, unix.SockFilter{Code: equal, K: uint32(numbers[call]), Jf: 1}, refuse)
	}
	f = append(f, unix.SockFilter{Code: equal, K: unix.SYS_REBOOT, Jf: 4},
		unix.SockFilter{Code: load, K: offsetArgs}, unix.SockFilter{Code: equal, K: 0, Jf: 1}, refuse, allow,
		unix.SockFilter{Code: equal, K: unix.SYS_SOCKET, Jt: 1}, allow, unix.SockFilter{Code: load, K: offsetArgs})
	for _, family := range []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK} {
		f = append(f, unix.SockFilter{Code: equal, K: family, Jf: 1}, allow)
	}
	f = append(f, answer(unix.SECCOMP_RET_ERRNO, uint32(unix.EAFNOSUPPORT)))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	_, _, errno := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, pointer(&program))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	return nil
}

// A filter counts for what it refuses and for nothing else, as far as the kernel
// shows it: one that looks at an argument refuses no call.
func TestFilterIsSeen(t *testing.T) {
	ktest.Filters(t)
	o := bare(t, "filtered")
	if os.Geteuid() == 0 && o.Outside.Filters == nil {
		t.Logf("the filters cannot be read: %s", o.Outside.Why)
	}
	u := unitOf(o)
	want := map[string]int{"SystemCallFilter=~@swap": 0, "SystemCallFilter=~@debug": 0, "SystemCallFilter=~@clock": 10, "SystemCallFilter=~@resources": 10,
		"RestrictAddressFamilies=~…": 0, "RestrictAddressFamilies=~AF_PACKET": 0, "RestrictAddressFamilies=~AF_UNIX": 1, "RestrictAddressFamilies=~AF_(INET|INET6)": 1,
		"RestrictAddressFamilies=~AF_NETLINK": 1, "RestrictNamespaces=~uts": 1, "NoNewPrivileges=": 0}
	if o.Outside.Filters != nil {
		want["SystemCallFilter=~@reboot"], want["SystemCallFilter=~@module"] = 10, 10
	}
	if runtime.GOARCH == "amd64" {
		want["SystemCallArchitectures="] = 0
	}
	for _, q := range questions {
		if badness, asked := want[q.id]; asked && q.badness(u) != badness {
			t.Errorf("%s: badness %d, want %d", q.id, q.badness(u), badness)
		}
	}
	if t.Failed() {
		t.Logf("the unit:\n%s", u)
	}
}
