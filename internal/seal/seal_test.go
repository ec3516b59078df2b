package seal

import (
	"testing"

	"activator/internal/spec"
)

// had says of all abilities that they are had, or that none is.
type had bool

func (h had) Answering() bool { return bool(h) }
func (h had) Accepting() bool { return bool(h) }

// Landlock's rules for reading are for a service that may get hold of what is not mounted: by any
// unix socket at which it can be passed descriptors, and for no other.
func TestReceives(t *testing.T) {
	for _, test := range []struct {
		address  string
		handover spec.Handover
		change   func(*spec.Service)
		want     bool
	}{
		{"unix:///x", "fds", nil, true}, // SO_PASSRIGHTS or not: it can pass an end of a socket pair out
		{"unixpacket:///x", "bind", nil, true},
		{"unix:///x", "proxy", nil, false},   // what comes is dropped
		{"unixgram:///x", "fds", nil, false}, // relayed
		{"unixgram:///x", "fds", func(s *spec.Service) { s.Sockets[0].Options.PassCredentials = true }, true},
		{"unixgram:///x", "fds", func(s *spec.Service) { s.Sockets[0].Options.RefuseRights = false }, true},
		{"tcp://127.0.0.1:1", "fds", nil, false},
		{"udp://127.0.0.1:1", "fds", nil, false},
		{"tcp://127.0.0.1:1", "fds", func(s *spec.Service) { s.Sandbox.Connect = "unix" }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *spec.Service) { s.Sandbox.Connect = "any" }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *spec.Service) { s.Sandbox.Network = "netns:x" }, true},
		{"tcp://127.0.0.1:1", "proxy", func(s *spec.Service) { s.Sandbox.Writable = []spec.Mount{{Host: "/x", Inside: "/x"}} }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *spec.Service) { s.Directories = []spec.Directory{{Kind: "state"}} }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *spec.Service) { s.Sandbox.ReadOnly = []spec.Mount{{Host: "/x", Inside: "/x"}} }, false},
	} {
		address, err := spec.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		conf := spec.Service{Process: spec.Process{Name: "test", Sandbox: spec.Sandbox{Network: "none", Connect: "none"}}, Handover: test.handover}
		conf.Sockets = []spec.Socket{{Address: address, Options: spec.Options{RefuseRights: true}}}
		if test.change != nil {
			test.change(&conf)
		}
		conf.Complete()
		Decide(&conf, had(true))
		if got := conf.Sandbox.Unmounted; got != test.want {
			t.Errorf("%s, %s: %v, want %v: %+v", test.address, test.handover, got, test.want, conf)
		}
	}
}

// A unix datagram socket that cannot be relayed only receives where Landlock has no
// scope of abstract names: nothing refuses a start.
func TestSealOfDatagrams(t *testing.T) {
	for _, test := range []struct {
		options spec.Options
		scope   bool
		want    spec.Seal
	}{
		{spec.Options{RefuseRights: true}, false, spec.Relayed},
		{spec.Options{RefuseRights: true}, true, spec.Relayed},
		{spec.Options{RefuseRights: true, PassCredentials: true}, false, spec.ReceiveOnly},
		{spec.Options{RefuseRights: true, PassSecurity: true}, false, spec.ReceiveOnly},
		{spec.Options{}, false, spec.ReceiveOnly},
		{spec.Options{}, true, spec.Unsealed},
	} {
		socket := spec.Socket{Address: spec.Address{Network: spec.UnixGram, Path: "/x"}, Options: test.options}
		if got := sealOf(socket, test.scope, had(false)); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// One socket's relay needs abstract names, and so the other one may not reach them.
func TestSealOfBothKinds(t *testing.T) {
	socket := func(path string, o spec.Options) spec.Socket {
		return spec.Socket{Address: spec.Address{Network: spec.UnixGram, Path: path}, Options: o}
	}
	conf := spec.Service{Process: spec.Process{Name: "test", Sandbox: spec.Sandbox{Connect: "none"}}, Sockets: []spec.Socket{
		socket("/x", spec.Options{RefuseRights: true, PassCredentials: true}), socket("/y", spec.Options{RefuseRights: true})}}
	conf.Complete()
	open := Decide(&conf, had(true))
	if got := [2]spec.Seal{conf.Sockets[0].Seal, conf.Sockets[1].Seal}; got != [2]spec.Seal{spec.ReceiveOnly, spec.Relayed} || !conf.Sandbox.Names || len(open.Lesser) == 0 {
		t.Errorf("%v, names %v, %q", got, conf.Sandbox.Names, open.Lesser)
	}
	conf.Sockets = conf.Sockets[1:]
	if Decide(&conf, had(true)); !conf.Sandbox.Names {
		t.Error("a relay's clients cannot be answered")
	}
	conf.Sockets[0].Options.PassCredentials = true
	if Decide(&conf, had(true)); conf.Sandbox.Names {
		t.Error("no scope, and nothing needs a name")
	}
}

// A TCP listener that a program gets only accepts, where that can be had. Of MPTCP it cannot.
func TestSealOfListeners(t *testing.T) {
	for _, test := range []struct {
		address  string
		handover spec.Handover
		mptcp    bool
		can      had
		want     spec.Seal
	}{
		{"tcp://127.0.0.1:1", spec.FDs, false, true, spec.AcceptOnly},
		{"tcp6://:1", spec.Bind, false, true, spec.AcceptOnly},
		{"tcp://127.0.0.1:1", spec.FDs, false, false, spec.Unsealed},
		{"tcp://127.0.0.1:1", spec.FDs, true, true, spec.Unsealed},
		{"tcp://127.0.0.1:1", spec.Proxy, false, true, spec.Unsealed},
		{"unix:///x", spec.FDs, false, true, spec.Unsealed},
	} {
		address, err := spec.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		conf := spec.Service{Process: spec.Process{Sandbox: spec.Sandbox{Seal: true}}, Handover: test.handover}
		conf.Sockets = []spec.Socket{{Address: address, Options: spec.Options{MPTCP: test.mptcp}}}
		if Decide(&conf, test.can); conf.Sockets[0].Seal != test.want {
			t.Errorf("%+v: %v", test, conf.Sockets[0].Seal)
		}
	}
}
