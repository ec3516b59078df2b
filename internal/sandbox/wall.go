package sandbox

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// wall is everything that the filter depends on.
type wall struct {
	all       bool   // syscalls = "any": only seal and connect
	seal      bool   // sockets it inherits cannot be turned outward
	ask       bool   // connect is answered by a supervisor
	supervise bool   // bind and listen too
	connect   bool   // connect is free
	tcp       bool   // Landlock refuses to bind and connect TCP
	cores     bool   // core dumps are the program's own business
	engine    bool   // of a container engine: with all, nothing but sockets
	internet  bool   // of an engine: a supervisor says who makes internet sockets
	keep      uint64 // capabilities that stay
}

func buildWall(s spec.Sandbox, keep uint64, landlock int) wall {
	w := wall{
		all: s.Syscalls == "any", seal: s.Seal, ask: s.AsksToConnect(), supervise: s.Overseen(),
		connect: s.Connect == "any" && !s.Seal, tcp: landlock >= abiTCP, keep: keep,
		cores: s.Cores,
	}
	if w.all {
		w.keep = 0 // of no meaning then, and one filter less to keep
	}
	return w
}

// The conditions of a group that is not just part of the default profile.

func noChroot(w *wall) bool { return !w.all && w.keep&(1<<unix.CAP_SYS_CHROOT) == 0 }

func noCores(w *wall) bool { return !w.all && !w.cores }

func always(*wall) bool { return true }

func sealed(w *wall) bool { return w.seal }

func makesSockets(w *wall) bool { return !w.all || w.engine }

func bound(w *wall) bool { return w.seal || w.supervise }

// applies reports whether the group is part of the wall.
func (g *group) applies(w *wall) bool {
	if g.when == nil {
		return !w.all
	}
	return g.when(w)
}

// answer is what the group says to its calls.
func (g *group) answer(w *wall) verdict {
	if g.check == nil {
		return refuse(g.errno)
	}
	return g.check(w)
}

// machine is a kind of processor: what seccomp calls an architecture.
type machine struct {
	audit  uint32 // AUDIT_ARCH_*
	number func(c call) int
}

var (
	amd64 = machine{unix.AUDIT_ARCH_X86_64, func(c call) int { return c.amd64 }}
	arm64 = machine{unix.AUDIT_ARCH_AARCH64, func(c call) int { return c.arm64 }}
)

// verdict is the whole filter. Every other machine's calls (a 64-bit kernel also
// runs 32-bit programs, with numbers and arguments of their own) do not exist.
func (w *wall) verdict(m machine) verdict {
	cases := []one{{newest + 1, ^uint32(0), refuse(unix.ENOSYS)}}
	for i := range groups {
		g := &groups[i]
		if !g.applies(w) {
			continue
		}
		answer := g.answer(w)
		for _, c := range g.calls {
			if number := m.number(c); number != none {
				cases = append(cases, values(answer, uint32(number))...)
			}
		}
	}
	numbers := choose(fieldNumber, 0, allow(), cases...)
	return choose(fieldMachine, 0, refuse(unix.ENOSYS), values(numbers, m.audit)...)
}

// open reports that nothing at all is refused.
func (w *wall) open() bool { return w.all && !w.seal && !w.supervise && !w.engine && w.connect }

// filters keeps what has been assembled, by wall: there are few different ones, and
// every start wants one.
var filters sync.Map

// filter is the assembled program; nil: none.
func (w wall) filter() []byte {
	if w.open() {
		return nil
	}
	if known, ok := filters.Load(w); ok {
		return known.([]byte)
	}
	program := assemble(w.verdict(*ours))
	filters.Store(w, program)
	return program
}
