package seccomp

import (
	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Profile is everything that a filter depends on.
type Profile struct {
	all       bool   // syscalls = "any": only seal and connect
	seal      bool   // sockets it inherits cannot be turned outward
	ask       bool   // connect is answered by a supervisor
	supervise bool   // bind and listen too
	withhold  bool   // setsockopt of what is withheld too
	connect   bool   // connect is free
	tcp       bool   // Landlock refuses to bind and connect TCP
	cores     bool   // core dumps are the program's own business
	engine    bool   // of a container engine: with all, nothing but sockets
	internet  bool   // of an engine: a supervisor says which process makes internet sockets
	observe   bool   // a supervisor gives the refusals, and is told what is bound
	paths     bool   // and what path or id a call names
	owners    bool   // and what changes the owner of a file
	keep      uint64 // capabilities that stay, bit n for number n
}

// NewProfile returns the profile of a service. keep are the capabilities that stay, bit n for
// number n; tcp says that Landlock refuses to bind and connect TCP.
func NewProfile(s spec.Sandbox, keep uint64, tcp bool) Profile {
	p := Profile{
		all: s.Syscalls == "any", seal: s.Seal, ask: s.AsksToConnect(), supervise: s.Overseen(), withhold: s.Withhold,
		connect: s.Connect == "any" && !s.Seal, tcp: tcp, keep: keep,
		owners: s.SeesOthers(), cores: s.Cores, observe: s.Observe != spec.Unobserved, paths: s.Observe == spec.ObservePaths,
	}
	if p.all {
		p.keep = 0 // of no meaning then, and one filter less to keep
	}
	return p
}

// NewEngineProfile returns the profile of a container engine, which makes namespaces and mounts: nothing
// but its sockets is taken from it. internet says that the container may make internet sockets.
// withhold says that a supervisor sets the options that are withheld from listeners.
func NewEngineProfile(seal, internet, withhold, tcp bool) Profile {
	return Profile{all: true, engine: true, seal: seal, ask: true, supervise: true, internet: internet, withhold: withhold, tcp: tcp}
}

// The conditions of a group that is not just part of the default profile.

func noChroot(p *Profile) bool { return !p.all && p.keep&(1<<unix.CAP_SYS_CHROOT) == 0 }

func noCores(p *Profile) bool { return !p.all && !p.cores }

func forAll(*Profile) bool { return true }

func ifOwners(p *Profile) bool { return p.owners }

func ifSealed(p *Profile) bool { return p.seal }

func makesSockets(p *Profile) bool { return !p.all || p.engine }

func ifBound(p *Profile) bool { return p.seal || p.supervise || p.observe }
