package main

import (
	"encoding/binary"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
)

// rule answers a system call whose arguments meet all conditions; the first one of a
// list that does counts.
type rule struct {
	number     int
	conditions []condition
	answer     uint32 // SECCOMP_RET_*, or newer
}

// newer is the answer of a rule for every call above its number: there is none.
const newer = unix.SECCOMP_RET_LOG

// condition is about the lower half of an argument.
type condition struct {
	argument int
	mask     uint32 // 0: all of it
	value    uint32
}

func refuse(number int, errno unix.Errno, conditions ...condition) rule {
	return rule{number, conditions, unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// pretend has a call return 0 that is never made.
func pretend(number int, conditions ...condition) rule { return refuse(number, 0, conditions...) }

// Where struct seccomp_data has what, seccomp(2); of an argument the lower half.
const (
	numberAt  = 0
	machineAt = 4
	firstAt   = 16
)

// assemble is for this machine's calls alone.
func assemble(rules []rule) []unix.SockFilter {
	machine := uint32(unix.AUDIT_ARCH_X86_64)
	if runtime.GOARCH == "arm64" {
		machine = unix.AUDIT_ARCH_AARCH64
	}
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	leave := func(answer uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: answer}
	}
	program := []unix.SockFilter{load(machineAt), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: machine, Jt: 1}, leave(unix.SECCOMP_RET_ALLOW)}
	for _, r := range rules {
		if r.answer == newer {
			program = append(program, load(numberAt), unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, K: uint32(r.number), Jf: 1},
				leave(unix.SECCOMP_RET_ERRNO|uint32(unix.ENOSYS)))
			continue
		}
		// What does not hold leads behind the rule, to the next one.
		own := []unix.SockFilter{load(numberAt), {Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: uint32(r.number)}}
		for _, c := range r.conditions {
			own = append(own, load(firstAt+8*uint32(c.argument)))
			if c.mask != 0 {
				own = append(own, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask})
			}
			own = append(own, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: c.value})
		}
		own = append(own, leave(r.answer))
		for i := range own {
			if own[i].Code == unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K {
				own[i].Jf = uint8(len(own) - 1 - i)
			}
		}
		program = append(program, own...)
	}
	return append(program, leave(unix.SECCOMP_RET_ALLOW))
}

// load puts this thread behind the filter.
func (l *lacks) load() error {
	if os.Geteuid() != 0 {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl", err)
		}
	}
	program := assemble(l.rules)
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	flags, helper := uintptr(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW), (*os.File)(nil)
	if l.landlock > 0 || l.filters {
		var err error
		if helper, err = startAnswerer(); err != nil {
			return err
		}
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	if helper == nil {
		return nil
	}
	defer func() { _ = helper.Close() }()
	defer func() { _ = unix.Close(int(listener)) }()
	message := append(binary.NativeEndian.AppendUint32(nil, uint32(l.landlock)), 0)
	if l.filters {
		message[versionSize] = 1
	}
	_, err := fdpass.SendMessage(int(helper.Fd()), message, int(listener))
	return err
}
