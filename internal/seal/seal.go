package seal

import (
	"slices"

	"activator/internal/listen"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Openings are what is open, a sentence each.
type Openings struct {
	Lacks  []string // what of the seal cannot be had here
	Lesser []string // what is no part of the seal, and is kept by less here than by a newer kernel
}

// Abilities say what of it is had here by programs in the kernel, by trying, once.
type Abilities interface {
	Answering() bool // UDP sockets can be made that only answer
	Accepting() bool // TCP sockets can be made that only accept
}

// Decide says in s how each of its sockets is kept from being turned outward here, and what
// of that its sandbox has to see to.
func Decide(s *spec.Service, can Abilities) (open Openings) {
	sealed := s.Sandbox.Seal
	kernel := sandbox.RunningKernel()
	// A relay's clients have abstract names inside, which the scope would keep from being answered.
	named := slices.ContainsFunc(s.Sockets, isRelayable)
	direct := false
	s.Sockets = slices.Clone(s.Sockets)
	for i := range s.Sockets {
		socket := &s.Sockets[i]
		if sealed {
			socket.Seal = sealOf(*socket, kernel.Scopes() && !named, can)
		}
		if socket.Seal == spec.AcceptOnly && s.Handover == spec.Proxy {
			socket.Seal = spec.Unsealed // it does not get it
		}
		direct = direct || socket.Address.Network == spec.UnixGram && socket.Seal == spec.Unsealed
	}
	s.Sandbox.Withhold = sealed && !s.Accept && slices.ContainsFunc(s.Sockets, func(socket spec.Socket) bool {
		return socket.Address.IsTCP() && socket.Seal == spec.Unsealed
	})
	if sealed {
		open.Lacks = kernel.SealLacks()
	}
	s.Sandbox.Alone = (sealed || s.Sandbox.Connect == "unix") && actsAlone(s, kernel)
	// A FIFO is not mounted either, and its descriptor leads to it: the rule for writing comes with
	// those for reading before Linux 5.19.
	s.Sandbox.Unmounted = receivesDescriptors(s) || slices.ContainsFunc(s.Sockets, isFIFO) && !kernel.Files(true)
	// A socket that is passed in may reach names of the host too, so the scope is there wherever
	// nothing needs a name: no relay, and nothing that the service connects to.
	s.Sandbox.Names = named || !direct && s.Sandbox.Connect != "none"
	open.Lesser = append(listLesser(s, kernel), listRefilled(s, kernel)...)
	return open
}

// isRelayable reports whether the datagrams of a unix socket can be carried: what comes with
// the sender's identity or descriptors must come from the sender.
func isRelayable(socket spec.Socket) bool {
	o := &socket.Options
	return socket.Address.Network == spec.UnixGram && o.RefuseRights && !o.PassCredentials && !o.PassSecurity
}

// sealOf chooses: UDP sockets answer only, by programs in the kernel or by a relay.
// Datagrams between unix sockets are relayed, since Landlock's scope would also
// refuse the answer to an abstract name. One that is not relayed is kept from these names by
// the scope, and without scope receives and does not send.
func sealOf(socket spec.Socket, scope bool, can Abilities) spec.Seal {
	switch {
	case socket.Address.IsTCP() && !socket.Options.MPTCP && can.Accepting():
		return spec.AcceptOnly
	case socket.Address.IsUDP() && can.Answering():
		return spec.ReplyOnly
	case socket.Address.IsUDP(), isRelayable(socket):
		return spec.Relayed
	case socket.Address.Network == spec.UnixGram && !scope:
		return spec.ReceiveOnly
	}
	return spec.Unsealed
}

// receivesDescriptors reports whether a service may get hold of what is not mounted: whether it
// can have a unix socket at which it is passed descriptors, a folder of the host's
// among them. SO_PASSRIGHTS at our sockets does not settle it: over one of them
// the service can pass its client an end of a socket pair, and receive there. Else it
// needs a path of the host's to listen at, a peer to connect to, or a network in which
// others see its abstract names.
func receivesDescriptors(s *spec.Service) bool {
	b := &s.Sandbox
	opened := func(word string) bool { return word != "" && word != "none" }
	if len(b.Writable) > 0 || len(s.Directories) > 0 || opened(b.Connect) || opened(b.Network) {
		return true
	}
	return s.Handover != spec.Proxy && slices.ContainsFunc(s.Sockets, func(socket spec.Socket) bool {
		return socket.Address.IsUnix() && socket.Seal != spec.Relayed // a relay passes none, either way
	})
}

// listLesser says what this kernel keeps by less than a newer one does, and what that
// leaves open. It is no part of the seal.
func listLesser(s *spec.Service, kernel sandbox.Kernel) (open []string) {
	refused := func(socket spec.Socket) bool {
		return socket.Address.IsUnix() && socket.Seal != spec.Relayed && socket.Options.RefuseRights
	}
	if s.Handover != spec.Proxy && !listen.CanRefuseRights() && slices.ContainsFunc(s.Sockets, refused) {
		open = append(open, "clients can pass descriptors in (no SO_PASSRIGHTS, Linux 6.16)")
	}
	if s.Container != nil {
		if receivesDescriptors(s) {
			open = append(open, "in a folder that is passed in, the files of the container's user can be read and written (under Landlock's rules for files an engine cannot mount: EPERM)")
		}
		return open
	}
	writable := len(s.Sandbox.Writable) > 0 || len(s.Directories) > 0
	switch {
	case !receivesDescriptors(s) || s.Sandbox.Syscalls == "any":
	case !kernel.Files(writable):
		open = append(open, "in a folder that is passed in, its user's files can be read and written ("+kernel.WithoutFiles()+")")
	case !kernel.Truncation():
		open = append(open, "in a folder that is passed in, its user's files can be cut off ("+kernel.WithoutTruncation()+")")
	}
	for _, socket := range s.Sockets {
		if socket.Seal == spec.ReceiveOnly {
			open = append(open, socket.Address.String()+" only receives, so that it reaches no abstract name ("+kernel.WithoutScope()+")")
		}
	}
	return open
}

// actsAlone reports whether a service could connect or bind what Landlock does not see, if the
// kernel read an address once more: TCP before ABI 4, and on every kernel MPTCP and vsock that it
// inherits. A program can make MPTCP sockets too, which reach others in a network that it shares.
func actsAlone(s *spec.Service, kernel sandbox.Kernel) bool {
	return !kernel.TCP() || s.Sandbox.Connect == "unix" && s.Sandbox.Network != "none" ||
		slices.ContainsFunc(s.Sockets, func(socket spec.Socket) bool { return socket.Options.MPTCP || socket.Address.Network == spec.VSock })
}

// Describe says in a few words how a socket is sealed.
func Describe(socket spec.Socket, conf spec.Service) string {
	judge := "seccomp"
	if conf.Sandbox.Connect != "none" || conf.Container != nil {
		judge = "supervisor"
	}
	switch {
	case conf.Handover == spec.Proxy:
		return "proxy: no socket of the host's enters"
	case !conf.Sandbox.Seal:
		return "not sealed"
	case socket.Seal == spec.ReplyOnly:
		return "direct, answers only: BPF"
	case socket.Seal == spec.Relayed:
		return "answers only: relay"
	case socket.Seal == spec.ReceiveOnly:
		return "direct, receives only"
	case socket.Address.Network == spec.FIFO:
		return "a FIFO leads nowhere"
	case socket.Seal == spec.AcceptOnly:
		return "direct, accepts only: BPF"
	case socket.Address.IsTCP() && !socket.Options.MPTCP && sandbox.RunningKernel().TCP():
		return "direct: " + judge + " + Landlock"
	case socket.Address.Network == spec.UnixGram:
		return "direct, to its own root: Landlock + mount namespace"
	}
	return "direct: " + judge
}
