package sandbox

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Confine takes from the calling thread, and from what it will exec, everything
// that p does not keep: capabilities, the right to get new ones, files, system calls.
// Nothing of it can be undone. With [Plan.Listener] it returns the descriptor on
// which a supervisor answers (seccomp_unotify(2)), which the caller closes; else -1.
//
// Order: the bounding set first, it needs CAP_SETPCAP. The
// keyring, while its call is not refused yet. no_new_privs, without which Landlock and the
// filter want CAP_SYS_ADMIN. Landlock before the filter, which need not know its
// calls then. Then all other capability sets at once, which takes the ambient ones
// along (capabilities(7)), and the filter last: whatever comes after it is under it.
// Only where no_new_privs stays off the filter goes before the capabilities, while
// CAP_SYS_ADMIN is still there.
//
// All of that before the wait for the first client, who does not pay for it: what
// the stage does afterwards needs nothing that is refused.
func (p *Plan) Confine() (listener int, err error) {
	if err := p.bound(); err != nil {
		return -1, err
	}
	if err := p.leaveKeyring(); err != nil {
		return -1, err
	}
	if !p.NewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return -1, stepError("no_new_privileges", "", os.NewSyscallError("prctl", err))
		}
	}
	if err := p.Landlock.restrict(); err != nil {
		return -1, err
	}
	if p.NewPrivs {
		if listener, err = p.filter(); err != nil {
			return -1, err
		}
		return listener, p.drop()
	}
	if err := p.drop(); err != nil {
		return -1, err
	}
	return p.filter()
}

// bound empties the bounding set but for what stays.
func (p *Plan) bound() error {
	for number := range uintptr(64) {
		if p.Keep&(1<<number) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, number, 0, 0, 0)
		if err == unix.EINVAL { // past the last one this kernel knows
			break
		}
		if err != nil {
			return stepError("capabilities", "bounding set", os.NewSyscallError("prctl", err))
		}
	}
	return nil
}

// leaveKeyring leaves the session keyring of who started us for an empty one,
// session-keyring(7). A filter that refuses keyctl(2) makes it unreachable
// anyway: then a full quota of keys, which are freed late, stops no start.
func (p *Plan) leaveKeyring() error {
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	if errno == 0 || errno == unix.ENOSYS || !p.Keys { // ENOSYS: a kernel without keys
		return nil
	}
	return stepError("keyring", "", os.NewSyscallError("keyctl", errno))
}

func (p *Plan) drop() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		mask := uint32(p.Keep >> (32 * i))
		data[i] = unix.CapUserData{Effective: mask, Permitted: mask, Inheritable: mask}
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return stepError("capabilities", "", os.NewSyscallError("capset", err))
	}
	return nil
}

// filter loads the filter, for the calling thread or, with Threads, for all.
func (p *Plan) filter() (listener int, err error) {
	if len(p.Filter) == 0 {
		return -1, nil
	}
	// Without it a kernel before 5.16 takes every filtered process for a browser that runs
	// foreign code, and slows it down for good (Speculative Store Bypass, prctl(2)).
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	if p.Threads {
		flags |= unix.SECCOMP_FILTER_FLAG_TSYNC
	}
	if p.Listener {
		flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	}
	if p.Listener && p.Threads {
		// A thread that cannot follow is told by an errno: the result is a descriptor.
		flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	}
	program := unix.SockFprog{Len: uint16(len(p.Filter) / unix.SizeofSockFilter), Filter: (*unix.SockFilter)(unsafe.Pointer(&p.Filter[0]))}
	result, errno := load(&program, flags)
	if errno == unix.EINVAL && p.Listener {
		// Before Linux 5.19 any signal interrupts a call that the supervisor works on.
		result, errno = load(&program, flags&^unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	}
	if errno == 0 && !p.Listener && result != 0 {
		errno = unix.ESRCH // the number of a thread that could not follow
	}
	if errno != 0 {
		return -1, stepError("seccomp", "", os.NewSyscallError("seccomp", errno))
	}
	if !p.Listener {
		return -1, nil
	}
	return int(result), nil
}

func load(program *unix.SockFprog, flags uintptr) (uintptr, unix.Errno) {
	result, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(program)))
	return result, errno
}
