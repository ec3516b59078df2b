package seccomp

import (
	"cmp"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

// The offsets in struct seccomp_data, seccomp(2). Both machines are little-endian,
// so an argument's offset is that of its low half; and the low half is all there is
// to check: every argument that is looked at here is an int to the kernel, or has
// no flag above bit 31.
const (
	fieldNumber  = 0
	fieldMachine = 4
	fieldArg0    = 16
	fieldArg1    = fieldArg0 + 8
	fieldArg2    = fieldArg1 + 8
	fieldArg3    = fieldArg2 + 8
)

// verdict is what is known of a call at some point: the answer, or what to look at
// next.
type verdict struct {
	answer uint32  // SECCOMP_RET_*, when next is nil
	next   *choice // shared, never changed
}

// choice looks at one field and goes on by its value.
type choice struct {
	field uint32
	mask  uint32 // what of it counts; 0: everything
	spans []span // ascending, the first from 0
}

// span is the values from from on, up to the next span's.
type span struct {
	from uint32
	then verdict
}

func refuseWith(errno unix.Errno) verdict {
	return verdict{answer: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// allowCall is the answer to what is not refused, notify that of a supervisor.
func allowCall() verdict { return verdict{answer: unix.SECCOMP_RET_ALLOW} }

func askSupervisor() verdict { return verdict{answer: unix.SECCOMP_RET_USER_NOTIF} }

// one is values of a field, mostly a single one, with their verdict.
type one struct {
	first, last uint32
	then        verdict
}

// newChoice makes the choice that has the verdicts of cases, which do not overlap,
// and otherwise for all other values.
func newChoice(field, mask uint32, otherwise verdict, cases ...one) verdict {
	slices.SortFunc(cases, func(a, b one) int { return cmp.Compare(a.first, b.first) })
	spans := []span{{0, otherwise}}
	add := func(from uint32, then verdict) {
		last := &spans[len(spans)-1]
		switch {
		case last.from == from:
			last.then = then
			if len(spans) > 1 && spans[len(spans)-2].then == then {
				spans = spans[:len(spans)-1]
			}
		case last.then != then:
			spans = append(spans, span{from, then})
		}
	}
	for _, c := range cases {
		add(c.first, c.then)
		if c.last != ^uint32(0) {
			add(c.last+1, otherwise)
		}
	}
	return verdict{next: &choice{field, mask, spans}}
}

// casesOf are cases of single values with one verdict.
func casesOf(then verdict, list ...uint32) []one {
	var cases []one
	for _, value := range list {
		cases = append(cases, one{value, value, then})
	}
	return cases
}

// assemble turns v into a program, struct sock_filter after struct sock_filter.
//
// A choice is a balanced binary search over its spans, so that every call is
// answered after few instructions, and so is every number when the kernel looks for
// those that are always allowed (seccomp_cache_prepare in kernel/seccomp.c, Linux
// 5.11): it emulates the program once for each at the load, which is at every start.
// And the kernel compiles the program at every start: what can be shared is.
func assemble(v verdict) []byte {
	p := program{answers: map[uint32]int{}, choices: map[*choice]int{}}
	p.emitVerdict(v)
	bytes := make([]byte, 0, len(p.code)*unix.SizeofSockFilter)
	for _, i := range slices.Backward(p.code) {
		bytes = binary.LittleEndian.AppendUint16(bytes, i.Code)
		bytes = append(bytes, i.Jt, i.Jf)
		bytes = binary.LittleEndian.AppendUint32(bytes, i.K)
	}
	return bytes
}

// program is written from its end, because jumps only go forward: where they go is
// known then. Places are counted from the end too.
type program struct {
	code    []unix.SockFilter
	answers map[uint32]int // the nearest place that gives the answer
	choices map[*choice]int
}

const farthest = 255 // instructions that a condition can skip

func (p *program) emitInstruction(i unix.SockFilter) (place int) {
	p.code = append(p.code, i)
	return len(p.code) - 1
}

// distanceTo is how many instructions lie between the next one to be emitted and place.
func (p *program) distanceTo(place int) int { return len(p.code) - 1 - place }

// emitVerdict returns the place where v is decided.
func (p *program) emitVerdict(v verdict) (place int) {
	if v.next != nil {
		return p.emitChoice(v.next)
	}
	place, ok := p.answers[v.answer]
	if !ok || p.distanceTo(place) > farthest-2 { // two jumps may come between
		place = p.emitInstruction(unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v.answer})
		p.answers[v.answer] = place
	}
	return place
}

func (p *program) emitChoice(c *choice) (place int) {
	if place, ok := p.choices[c]; ok {
		return place
	}
	p.emitJump(p.emitSearch(c.spans))
	if c.mask != 0 {
		p.emitInstruction(unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: c.mask})
	}
	place = p.emitInstruction(unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: c.field})
	p.choices[c] = place
	return place
}

func (p *program) emitSearch(spans []span) (place int) {
	if len(spans) == 1 {
		return p.emitVerdict(spans[0].then)
	}
	middle := len(spans) / 2
	above := p.emitSearch(spans[middle:])
	below := p.bringNear(p.emitSearch(spans[:middle]))
	above = p.bringNear(above)
	return p.emitInstruction(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: spans[middle].from,
		Jt: uint8(p.distanceTo(above)), Jf: uint8(p.distanceTo(below))})
}

// bringNear makes a place reachable by a condition that is emitted next, or after one
// more jump.
func (p *program) bringNear(place int) int {
	if p.distanceTo(place) < farthest {
		return place
	}
	return p.emitInstruction(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(p.distanceTo(place))})
}

// emitJump makes what is emitted next go on at place.
func (p *program) emitJump(place int) {
	if p.distanceTo(place) != 0 {
		p.emitInstruction(unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(p.distanceTo(place))})
	}
}
