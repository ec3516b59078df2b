package seccomp

import (
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Call is a struct seccomp_data without the instruction pointer, seccomp(2).
type Call struct {
	Number  uint32
	Machine uint32 // AUDIT_ARCH_*
	Args    [6]uint64
}

func (c Call) field(offset uint32) uint32 {
	switch offset {
	case fieldNumber:
		return c.Number
	case fieldMachine:
		return c.Machine
	}
	return uint32(c.Args[(offset-fieldArg0)/8] >> (8 * (offset % 8)))
}

// walk is the answer to a call, told without a program.
func (v verdict) walk(c Call) (answer uint32) {
	for v.next != nil {
		value, mask := c.field(v.next.field), v.next.mask
		if mask != 0 {
			value &= mask
		}
		at, _ := slices.BinarySearchFunc(v.next.spans, value, func(s span, value uint32) int {
			if s.from <= value {
				return -1
			}
			return 1
		})
		v = v.next.spans[at-1].then
	}
	return v.answer
}

// handOver is v with every refusal that a program may die of given by a supervisor. Those that every
// libc knows how to do without stay the filter's: ENOSYS, an answer without effect, and the EINVAL of a lease.
func (v verdict) handOver(done map[*choice]*choice) verdict {
	if v.next == nil {
		if slices.Contains(tellable, v.answer) {
			return askSupervisor()
		}
		return v
	}
	if done[v.next] == nil {
		c := &choice{field: v.next.field, mask: v.next.mask}
		for _, s := range v.next.spans {
			c.spans = append(c.spans, span{s.from, s.then.handOver(done)})
		}
		done[v.next] = c
	}
	return verdict{next: done[v.next]}
}

// tellable are the refusals that a supervisor gives in the filter's place, to tell of them.
var tellable = []uint32{
	refuseWith(unix.EPERM).answer, refuseWith(unix.EAFNOSUPPORT).answer, refuseWith(unix.EPROTONOSUPPORT).answer,
	refuseWith(unix.ESOCKTNOSUPPORT).answer, refuseWith(unix.ENOPROTOOPT).answer,
}

// openings are the keys of [sandbox] that open something, the narrowest first.
var openings = []struct {
	key  string
	open func(p *Profile)
}{
	{`capabilities = ["CAP_SYS_CHROOT"]`, func(p *Profile) { p.keep |= 1 << unix.CAP_SYS_CHROOT }},
	{`capabilities = ["CAP_NET_RAW"]`, func(p *Profile) { p.keep |= 1 << unix.CAP_NET_RAW }},
	{`syscalls = "any"`, func(p *Profile) { p.all = true }},
	{`connect = "any"`, func(p *Profile) { p.ask, p.connect = p.seal, !p.seal }},
	{`seal = "off"`, func(p *Profile) { p.seal = false }},
}

// FindRefusal returns what the filter says of a call where no supervisor gives the refusals.
func (p Profile) FindRefusal(c Call) spec.Refusal {
	p.observe, p.paths = false, false
	r := spec.Refusal{Call: nameOf(c.Number)}
	switch answer := p.answerTo(c); answer & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_USER_NOTIF:
		r.Asked = true
	case unix.SECCOMP_RET_ERRNO:
		r.Errno = unix.Errno(answer & unix.SECCOMP_RET_DATA)
	}
	for _, o := range openings {
		if r.Errno == 0 || r.Key != "" {
			break
		}
		opened := p
		if o.open(&opened); opened.answerTo(c)&unix.SECCOMP_RET_ACTION_FULL != unix.SECCOMP_RET_ERRNO {
			r.Key = o.key
		}
	}
	return r
}

// answerTo is the filter's answer.
func (p Profile) answerTo(c Call) uint32 {
	if p.refusesNothing() {
		return unix.SECCOMP_RET_ALLOW
	}
	v, ok := verdicts.Load(p)
	if !ok {
		v, _ = verdicts.LoadOrStore(p, p.wholeVerdict(*ours))
	}
	return v.(verdict).walk(c)
}

// verdicts keeps those that have been asked, by profile.
var verdicts sync.Map

// nameOf is the name of one of this machine's calls that may be refused, or that names a path or an id.
func nameOf(number uint32) string {
	for i := range groups {
		for _, c := range groups[i].calls {
			if n := ours.number(c); n != none && uint32(n) == number {
				return c.name
			}
		}
	}
	for _, c := range slices.Concat(pathCalls, idCalls) {
		if n := ours.number(c); n != none && uint32(n) == number {
			return c.name
		}
	}
	return ""
}
