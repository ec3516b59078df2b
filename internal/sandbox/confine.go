package sandbox

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
)

// Confine adds to s what takes from the child, and from what it will exec, everything
// that p does not keep: capabilities, the right to get new ones, files, system calls.
// Nothing of it can be undone. With [Plan.Listener] it returns the descriptor on
// which a supervisor answers (seccomp_unotify(2)), which the call list closes; else -1.
//
// Order: the bounding set first, it needs CAP_SETPCAP. The
// keyring, while its call is not refused yet. no_new_privs, without which Landlock and the
// filter want CAP_SYS_ADMIN. Landlock before the filter, which need not know its
// calls then. Then all other capability sets at once, and the filter last: whatever
// comes after it is under it. Only where no_new_privs stays off the filter goes before
// the capabilities, while CAP_SYS_ADMIN is still there.
//
// All of that comes before the wait for the first client, which does not pay for it: what
// comes afterwards needs nothing that is refused.
func (p *Plan) Confine(s *vfork.CallList) (listener int) {
	b := &builder{CallList: s}
	b.setStep("capabilities", "bounding set")
	for number := range lastCapability() + 1 {
		if p.keep&(1<<number) == 0 {
			b.Do(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0)
		}
	}
	b.leaveKeyring(p.keys)
	if !p.newPrivs {
		b.setStep("no_new_privileges", "")
		b.Do(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	p.landlock.addRestriction(b)
	if p.newPrivs {
		listener = b.loadFilter(p)
		b.keepCapabilities(p.keep)
		return listener
	}
	b.keepCapabilities(p.keep)
	return b.loadFilter(p)
}

// lastCapability is the highest number that this kernel knows.
var lastCapability = sync.OnceValue(func() int {
	number := 0
	for number < 63 && unix.Prctl(unix.PR_CAPBSET_READ, uintptr(number+1), 0, 0, 0) != unix.EINVAL {
		number++
	}
	return number
})

// leaveKeyring leaves our session keyring for an empty one,
// session-keyring(7). A filter that refuses keyctl(2) makes it unreachable
// anyway: then a full quota of keys, which are freed late, stops no start.
func (b *builder) leaveKeyring(reachable bool) {
	b.setStep("keyring", "")
	c := b.Do(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if reachable {
		c.IgnoreErrors(unix.ENOSYS) // a kernel without keys
	} else {
		c.IgnoreErrors()
	}
}

// NarrowCapabilities adds to s what leaves the child no capabilities but those of mask.
func NarrowCapabilities(s *vfork.CallList, mask uint64) {
	b := builder{CallList: s}
	b.setStep("capabilities", "")
	b.setCapabilities(mask)
}

// keepCapabilities leaves those of mask, which the program keeps over its execve.
func (b *builder) keepCapabilities(mask uint64) {
	b.setStep("capabilities", "")
	b.setCapabilities(mask)
	for number := range uint(64) {
		if mask&(1<<number) != 0 {
			b.Do(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(number), 0, 0)
		}
	}
}

func (b *builder) setCapabilities(mask uint64) {
	const half = 1<<32 - 1
	low, high := uintptr(mask&half), uintptr(mask>>32)
	header := b.AddWords(unix.LINUX_CAPABILITY_VERSION_3) // and pid 0
	// Effective, permitted, inheritable, of 32 bits each; then the same of the upper half.
	data := b.AddWords(low|low<<32, low|high<<32, high|high<<32)
	b.Do(unix.SYS_CAPSET, header.Address, data.Address)
}

// loadFilter loads the filter.
func (b *builder) loadFilter(p *Plan) (listener int) {
	if len(p.filter) == 0 {
		return -1
	}
	b.setStep("seccomp", "")
	// Without it a kernel before 5.16 takes every filtered process for a browser that runs
	// foreign code, and slows it down for good (Speculative Store Bypass, prctl(2)).
	flags := uintptr(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW)
	program := b.AddWords(uintptr(len(p.filter)/unix.SizeofSockFilter), b.AddBytes(p.filter)) // struct sock_fprog
	load := func(flags uintptr) vfork.Call {
		return b.Do(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, program.Address)
	}
	if !p.Listener {
		load(flags)
		return -1
	}
	flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	older, loaded := b.NewLabel(), b.NewLabel()
	load(flags|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV).OnPositive(loaded).OnError(older, unix.EINVAL)
	b.PlaceLabel(older) // before Linux 5.19 any signal interrupts a call that the supervisor works on
	listener = b.Open(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, program.Address)
	b.PlaceLabel(loaded)
	return listener
}
