package seccomp

import (
	"encoding/binary"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// interpret runs a program as the kernel does, and returns how many instructions
// it took. It knows only what the kernel's own emulation at the load knows
// (seccomp_is_const_allow): with anything else no call would be fast.
func interpret(t *testing.T, program []byte, r Call) (answer uint32, steps int) {
	t.Helper()
	var a uint32
	for at := 0; ; at++ {
		steps++
		if at*8+8 > len(program) {
			t.Fatalf("ran over the end: %+v", r)
		}
		code, jt, jf, k := binary.LittleEndian.Uint16(program[at*8:]), int(program[at*8+2]), int(program[at*8+3]), binary.LittleEndian.Uint32(program[at*8+4:])
		switch code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = r.field(k)
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= k
		case unix.BPF_JMP | unix.BPF_JA:
			at += int(k)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			if a >= k {
				at += jt
			} else {
				at += jf
			}
		case unix.BPF_RET | unix.BPF_K:
			return k, steps
		default:
			t.Fatalf("instruction %#x", code)
		}
	}
}

// edges are the values at which a field's choice changes, and their neighbours.
func (v verdict) edges(values map[uint32][]uint64) {
	if v.next == nil {
		return
	}
	for _, s := range v.next.spans {
		for _, value := range []uint32{s.from - 1, s.from, s.from + 1} {
			values[v.next.field] = append(values[v.next.field], uint64(value), uint64(value)|0xabcd<<32, uint64(value|^v.next.mask))
		}
		s.then.edges(values)
	}
}

// profiles are those that differ in what they refuse.
func profiles() map[string]Profile {
	list := map[string]Profile{}
	for _, seal := range []bool{false, true} {
		for _, connect := range []string{"none", "unix", "any"} {
			for _, syscalls := range []string{"default", "any"} {
				for _, tcp := range []bool{false, true} {
					s := spec.Sandbox{Seal: seal, Connect: connect, Syscalls: syscalls}
					name := strings.Join([]string{"seal", strconv.FormatBool(seal), "connect", connect, "syscalls", syscalls, "landlock", strconv.FormatBool(tcp)}, " ")
					list[name] = NewProfile(s, 0, tcp)
				}
			}
		}
	}
	for _, seal := range []bool{false, true} {
		for _, internet := range []bool{false, true} {
			name := strings.Join([]string{"engine, seal", strconv.FormatBool(seal), "internet", strconv.FormatBool(internet)}, " ")
			list[name] = NewEngineProfile(seal, internet, false, true)
		}
	}
	list["bind"] = NewProfile(spec.Sandbox{Seal: true, Bind: true}, 0, true)
	list["bind, not sealed"] = NewProfile(spec.Sandbox{Bind: true, Syscalls: "any", Connect: "any"}, 0, false)
	list["all capabilities"] = NewProfile(spec.Sandbox{Seal: true}, ^uint64(0), true)
	return list
}

// Every number up to what nobody knows yet and around the ends, on both machines and on foreign
// ones, with the arguments at which anything changes: the program says what the
// table means.
func TestProgramMeansTheTable(t *testing.T) {
	longest := 0
	for name, p := range profiles() {
		for _, m := range []machine{amd64, arm64} {
			v := p.wholeVerdict(m)
			program := assemble(v)
			if len(program)/8 > 4096 { // BPF_MAXINSNS
				t.Errorf("%s: %d instructions", name, len(program)/8)
			}
			numbers := []uint32{1 << 30, 1<<30 + 42, 1 << 31, ^uint32(0)}
			for number := range uint32(newest + 40) {
				numbers = append(numbers, number)
			}
			for _, number := range numbers {
				edges := map[uint32][]uint64{}
				v.find(m, number).edges(edges)
				for _, r := range combine(Call{Number: number, Machine: m.audit}, edges) {
					got, steps := interpret(t, program, r)
					if want := v.walk(r); got != want {
						t.Fatalf("%s: %+v: %#x, not %#x", name, r, got, want)
					}
					longest = max(longest, steps)
				}
			}
			for number := range uint32(newest) {
				for _, foreign := range []uint32{unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM, 0, m.audit ^ 1} {
					if got, steps := interpret(t, program, Call{Number: number, Machine: foreign}); got != refuseWith(unix.ENOSYS).answer || steps > 5 {
						t.Fatalf("%s: machine %#x: %#x", name, foreign, got)
					}
				}
			}
		}
	}
	t.Logf("at most %d instructions for a call, %d in the default filter", longest, len(NewProfile(spec.Sandbox{Seal: true}, 0, true).Filter())/8)
	if longest > 40 {
		t.Errorf("%d instructions for one call", longest)
	}
}

// find is the verdict on a number.
func (v verdict) find(m machine, number uint32) verdict {
	for v.next != nil && (v.next.field == fieldMachine || v.next.field == fieldNumber) {
		value := map[uint32]uint32{fieldMachine: m.audit, fieldNumber: number}[v.next.field]
		at := slices.IndexFunc(v.next.spans, func(s span) bool { return s.from > value })
		if at < 0 {
			at = len(v.next.spans)
		}
		v = v.next.spans[at-1].then
	}
	return v
}

// combine is r with every combination of the values.
func combine(r Call, edges map[uint32][]uint64) []Call {
	requests := []Call{r}
	for field, values := range edges {
		slices.Sort(values)
		var next []Call
		for _, r := range requests {
			for _, value := range slices.Compact(slices.Clone(values)) {
				r.Args[(field-fieldArg0)/8] = value
				next = append(next, r)
			}
		}
		requests = next
	}
	return requests
}

// What a kernel can do with the program it must be able to do fast: a number that
// needs no argument to be allowed takes few instructions, and so do the send calls.
func TestHotCallsAreShort(t *testing.T) {
	program := NewProfile(spec.Sandbox{Seal: true}, 0, true).Filter()
	for name, number := range map[string]uint32{"read": unix.SYS_READ, "write": unix.SYS_WRITE, "accept4": unix.SYS_ACCEPT4, "sendto": unix.SYS_SENDTO, "sendmsg": unix.SYS_SENDMSG, "epoll_pwait": unix.SYS_EPOLL_PWAIT} {
		answer, steps := interpret(t, program, Call{Number: number, Machine: ours.audit})
		if answer != unix.SECCOMP_RET_ALLOW || steps > 16 {
			t.Errorf("%s: %#x after %d instructions", name, answer, steps)
		}
	}
}

// table reads a file of testdata into words per line.
func table(t *testing.T, name string) [][]string {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var lines [][]string
	for line := range strings.Lines(string(data)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
			lines = append(lines, words)
		}
	}
	return lines
}

func TestNumbersAreThoseOfTheirNames(t *testing.T) {
	known := map[string][2]int{}
	highest := 0
	for _, words := range table(t, "syscalls.txt") {
		var numbers [2]int
		for i := range numbers {
			var err error
			if numbers[i], err = strconv.Atoi(words[1+i]); err != nil {
				numbers[i] = none
			}
			highest = max(highest, numbers[i])
		}
		known[words[0]] = numbers
	}
	if highest != newest {
		t.Errorf("the newest call is %d, not %d: decide about those in between", highest, newest)
	}
	seen := map[string]bool{}
	for _, g := range groups {
		if g.why == "" || (g.check == nil) == (g.errno == 0) {
			t.Errorf("%+v: a reason and either an errno or a check", g.calls)
		}
		for _, c := range g.calls {
			if numbers, ok := known[c.name]; !ok || numbers != [2]int{c.amd64, c.arm64} || seen[c.name] {
				t.Errorf("%s: %d, %d, known as %v, twice %v", c.name, c.amd64, c.arm64, numbers, seen[c.name])
			}
			seen[c.name] = true
		}
	}
	for _, c := range pathCalls {
		if known[c.name] != [2]int{c.amd64, c.arm64} {
			t.Errorf("%s: %d, %d, known as %v", c.name, c.amd64, c.arm64, known[c.name])
		}
	}
	for name, number := range map[string]int{"mount": unix.SYS_MOUNT, "connect": unix.SYS_CONNECT, "rseq_slice_yield": unix.SYS_RSEQ_SLICE_YIELD} {
		if at := map[*machine]int{&amd64: 0, &arm64: 1}[ours]; known[name][at] != number {
			t.Errorf("%s: %v, here %d", name, known[name], number)
		}
	}
}

func TestRefusesWhatPodmanRefuses(t *testing.T) {
	numbers := map[string]call{}
	for _, words := range table(t, "syscalls.txt") {
		c := call{name: words[0], amd64: none, arm64: none}
		if n, err := strconv.Atoi(words[1]); err == nil {
			c.amd64 = n
		}
		if n, err := strconv.Atoi(words[2]); err == nil {
			c.arm64 = n
		}
		numbers[c.name] = c
	}
	podman := table(t, "podman.txt")
	if len(podman) < 49 {
		t.Fatalf("only %d", len(podman))
	}
	p := NewProfile(spec.Sandbox{}, 0, false)
	for _, m := range []machine{amd64, arm64} {
		v := p.wholeVerdict(m)
		for _, words := range podman {
			number := m.number(numbers[words[0]])
			if number == none {
				continue
			}
			answer := v.find(m, uint32(number))
			if answer.next != nil || answer.answer == unix.SECCOMP_RET_ALLOW {
				t.Errorf("%s (%d): %+v", words[0], number, answer)
			}
		}
	}
}

// Any choices: the program says what they mean, however far it has to jump.
func FuzzAssemble(f *testing.F) {
	f.Add([]byte{1, 2, 3}, uint32(2), uint32(0))
	f.Add(slices.Repeat([]byte{7, 200, 31, 90, 5, 250}, 300), uint32(100), uint32(90))
	f.Fuzz(func(t *testing.T, data []byte, number, arg uint32) {
		var cases []one
		from := uint32(0)
		for i, b := range data[:min(len(data), 2000)] {
			from += uint32(b) + 1
			then := refuseWith(unix.Errno(b%4 + 1))
			if b%8 == 7 {
				then = newChoice(fieldArg0, uint32(b), then, casesOf(allowCall(), uint32(i), uint32(b)<<16|1)...)
			}
			cases = append(cases, one{from, from + uint32(b)/2, then})
			from += uint32(b) / 2
		}
		v := newChoice(fieldNumber, 0, allowCall(), cases...)
		program := assemble(v)
		for _, n := range []uint32{number, number % (from + 2), from, from + 1} {
			r := Call{Number: n, Args: [6]uint64{uint64(arg)}}
			if got, _ := interpret(t, program, r); got != v.walk(r) {
				t.Errorf("%+v: %#x, not %#x", r, got, v.walk(r))
			}
		}
	})
}
