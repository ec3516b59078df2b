package sandbox

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

func refuse(errno unix.Errno) verdict {
	return verdict{answer: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// allow is the answer to what is not refused, notify that of a supervisor.
func allow() verdict  { return verdict{answer: unix.SECCOMP_RET_ALLOW} }
func notify() verdict { return verdict{answer: unix.SECCOMP_RET_USER_NOTIF} }

// one is a value of a field with its verdict, reach a range of them.
type one struct {
	first, last uint32
	then        verdict
}

// choose makes the choice that has the verdicts of cases, which do not overlap,
// and otherwise for all other values.
func choose(field, mask uint32, otherwise verdict, cases ...one) verdict {
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

// values are cases of single values with one verdict.
func values(then verdict, list ...uint32) []one {
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
func assemble(v verdict) []byte {
	var bytes []byte
	for _, i := range v.code() {
		bytes = binary.LittleEndian.AppendUint16(bytes, i.Code)
		bytes = append(bytes, i.Jt, i.Jf)
		bytes = binary.LittleEndian.AppendUint32(bytes, i.K)
	}
	return bytes
}

func (v verdict) code() []unix.SockFilter {
	if v.next == nil {
		return []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: v.answer}}
	}
	code := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: v.next.field}}
	if v.next.mask != 0 {
		code = append(code, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: v.next.mask})
	}
	return append(code, search(v.next.spans)...)
}

func search(spans []span) []unix.SockFilter {
	if len(spans) == 1 {
		return spans[0].then.code()
	}
	middle := len(spans) / 2
	below, above := search(spans[:middle]), search(spans[middle:])
	code := []unix.SockFilter{{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: spans[middle].from}}
	if len(below) > 255 { // a condition jumps no further
		code[0].Jf = 1
		code = append(code, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(below))})
	} else {
		code[0].Jt = uint8(len(below))
	}
	return slices.Concat(code, below, above)
}
