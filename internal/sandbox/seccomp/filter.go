package seccomp

import (
	"sync"

	"golang.org/x/sys/unix"
)

// appliesTo reports whether the group is part of the profile.
func (g *group) appliesTo(p *Profile) bool {
	if g.when == nil {
		return !p.all
	}
	return g.when(p)
}

// answerOf is what the group says to its calls.
func (g *group) answerOf(p *Profile) verdict {
	if g.check == nil {
		return refuseWith(g.errno)
	}
	return g.check(p)
}

// wholeVerdict is the whole filter. Every other machine's calls (a 64-bit kernel also
// runs 32-bit programs, with numbers and arguments of their own) do not exist.
func (p *Profile) wholeVerdict(m machine) verdict {
	cases := []one{{newest + 1, ^uint32(0), refuseWith(unix.ENOSYS)}}
	for i := range groups {
		g := &groups[i]
		if !g.appliesTo(p) {
			continue
		}
		answer := g.answerOf(p)
		for _, c := range g.calls {
			if number := m.number(c); number != none && !p.isTold(c.name) {
				cases = append(cases, casesOf(answer, uint32(number))...)
			}
		}
	}
	cases = append(cases, p.tellCalls(m)...)
	numbers := newChoice(fieldNumber, 0, allowCall(), cases...)
	whole := newChoice(fieldMachine, 0, refuseWith(unix.ENOSYS), casesOf(numbers, m.audit)...)
	if p.observe {
		whole = whole.handOver(map[*choice]*choice{})
	}
	return whole
}

// refusesNothing reports that nothing at all is refused.
func (p *Profile) refusesNothing() bool {
	return p.all && !p.seal && !p.supervise && !p.engine && p.connect && !p.paths && !p.owners
}

// filters keeps what has been assembled, by profile: there are few different ones, and
// every start wants one.
var filters sync.Map

// Filter returns the assembled filter for the machine this binary is for, a struct sock_filter
// after the other; nil: none. It is shared with other callers, and not changed.
func (p Profile) Filter() []byte {
	if p.refusesNothing() {
		return nil
	}
	if known, ok := filters.Load(p); ok {
		return known.([]byte)
	}
	program := assemble(p.wholeVerdict(*ours))
	filters.Store(p, program)
	return program
}
