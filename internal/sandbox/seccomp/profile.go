package seccomp

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Profile is everything that a filter depends on.
type Profile struct {
	all       bool   // syscalls = "any": only seal and connect
	seal      bool   // sockets it inherits cannot be turned outward
	ask       bool   // connect is answered by a supervisor
	supervise bool   // bind and listen too
	connect   bool   // connect is free
	tcp       bool   // Landlock refuses to bind and connect TCP
	cores     bool   // core dumps are the program's own business
	engine    bool   // of a container engine: with all, nothing but sockets
	internet  bool   // of an engine: a supervisor says who makes internet sockets
	keep      uint64 // capabilities that stay, bit n for number n
}

// NewProfile returns the profile of a service. keep are the capabilities that stay, bit n for
// number n; tcp says that Landlock refuses to bind and connect TCP.
func NewProfile(s spec.Sandbox, keep uint64, tcp bool) Profile {
	p := Profile{
		all: s.Syscalls == "any", seal: s.Seal, ask: s.AsksToConnect(), supervise: s.Overseen(),
		connect: s.Connect == "any" && !s.Seal, tcp: tcp, keep: keep,
		cores: s.Cores,
	}
	if p.all {
		p.keep = 0 // of no meaning then, and one filter less to keep
	}
	return p
}

// NewEngineProfile returns the profile of a container engine, which makes namespaces and mounts: nothing
// but its sockets is taken from it. internet says that the container may make internet sockets.
func NewEngineProfile(seal, internet, tcp bool) Profile {
	return Profile{all: true, engine: true, seal: seal, ask: true, supervise: true, internet: internet, tcp: tcp}
}

// The conditions of a group that is not just part of the default profile.

func noChroot(p *Profile) bool { return !p.all && p.keep&(1<<unix.CAP_SYS_CHROOT) == 0 }

func noCores(p *Profile) bool { return !p.all && !p.cores }

func forAll(*Profile) bool { return true }

func ifSealed(p *Profile) bool { return p.seal }

func makesSockets(p *Profile) bool { return !p.all || p.engine }

func ifBound(p *Profile) bool { return p.seal || p.supervise }

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

// machine is a kind of processor: what seccomp calls an architecture.
type machine struct {
	audit  uint32 // AUDIT_ARCH_*
	number func(c call) int
}

var (
	amd64 = machine{unix.AUDIT_ARCH_X86_64, func(c call) int { return c.amd64 }}
	arm64 = machine{unix.AUDIT_ARCH_AARCH64, func(c call) int { return c.arm64 }}
)

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
			if number := m.number(c); number != none {
				cases = append(cases, casesOf(answer, uint32(number))...)
			}
		}
	}
	numbers := newChoice(fieldNumber, 0, allowCall(), cases...)
	return newChoice(fieldMachine, 0, refuseWith(unix.ENOSYS), casesOf(numbers, m.audit)...)
}

// refusesNothing reports that nothing at all is refused.
func (p *Profile) refusesNothing() bool {
	return p.all && !p.seal && !p.supervise && !p.engine && p.connect
}

// filters keeps what has been assembled, by profile: there are few different ones, and
// every start wants one.
var filters sync.Map

// Filter returns the assembled filter for the machine this binary is for, a struct sock_filter
// after the other; nil: none. It is shared with other callers, who do not change it.
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
