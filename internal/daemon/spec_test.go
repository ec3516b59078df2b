package daemon

import (
	"testing"

	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/spec"
)

// Landlock's rules for reading are for whoever may get hold of what is not mounted: by any
// unix socket at which somebody can pass it descriptors, and for nobody else.
func TestReceives(t *testing.T) {
	for _, test := range []struct {
		address, handover string
		change            func(*config.Service)
		want              bool
	}{
		{"unix:///x", "fds", nil, true}, // SO_PASSRIGHTS or not: it can pass an end of a socket pair out
		{"unixpacket:///x", "bind", nil, true},
		{"unix:///x", "proxy", nil, false},   // what comes is dropped
		{"unixgram:///x", "fds", nil, false}, // relayed
		{"unixgram:///x", "fds", func(s *config.Service) { s.Sockets[0].Options.PassCredentials = true }, true},
		{"unixgram:///x", "fds", func(s *config.Service) { s.Sockets[0].Options.RefuseRights = false }, true},
		{"tcp://127.0.0.1:1", "fds", nil, false},
		{"udp://127.0.0.1:1", "fds", nil, false},
		{"tcp://127.0.0.1:1", "fds", func(s *config.Service) { s.Sandbox.Connect = "unix" }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *config.Service) { s.Sandbox.Connect = "any" }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *config.Service) { s.Sandbox.Network = "netns:x" }, true},
		{"tcp://127.0.0.1:1", "proxy", func(s *config.Service) { s.Sandbox.Writable = []spec.Mount{{Host: "/x", Inside: "/x"}} }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *config.Service) { s.Directories = []spec.Directory{{Kind: "state"}} }, true},
		{"tcp://127.0.0.1:1", "fds", func(s *config.Service) { s.Sandbox.ReadOnly = []spec.Mount{{Host: "/x", Inside: "/x"}} }, false},
	} {
		address, err := spec.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		conf := config.Service{Name: "test", Handover: test.handover, Sandbox: config.Sandbox{Sandbox: spec.Sandbox{Network: "none", Connect: "none"}}}
		conf.Sockets = []config.Socket{{Spec: listen.Spec{Address: address, Options: listen.Options{RefuseRights: true}}}}
		if test.change != nil {
			test.change(&conf)
		}
		if got := seal(conf, func() bool { return true }).receives; got != test.want {
			t.Errorf("%s, %s: %v, want %v: %+v", test.address, test.handover, got, test.want, conf)
		}
	}
}

// A unix datagram socket that cannot be relayed only receives where Landlock has no
// scope of abstract names: nothing refuses a start.
func TestSealOfDatagrams(t *testing.T) {
	for _, test := range []struct {
		options listen.Options
		scope   bool
		want    listen.Seal
	}{
		{listen.Options{RefuseRights: true}, false, listen.Relayed},
		{listen.Options{RefuseRights: true}, true, listen.Relayed},
		{listen.Options{RefuseRights: true, PassCredentials: true}, false, listen.ReceiveOnly},
		{listen.Options{RefuseRights: true, PassSecurity: true}, false, listen.ReceiveOnly},
		{listen.Options{}, false, listen.ReceiveOnly},
		{listen.Options{}, true, listen.Unsealed},
	} {
		socket := listen.Spec{Address: spec.Address{Network: spec.UnixGram, Path: "/x"}, Options: test.options}
		if got := sealOf(socket, test.scope, func() bool { return false }); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// One socket's relay needs abstract names, and so the other one may not reach them.
func TestSealOfBothKinds(t *testing.T) {
	socket := func(path string, o listen.Options) config.Socket {
		return config.Socket{Spec: listen.Spec{Address: spec.Address{Network: spec.UnixGram, Path: path}, Options: o}}
	}
	conf := config.Service{Name: "test", Sandbox: config.Sandbox{Sandbox: spec.Sandbox{Connect: "none"}}, Sockets: []config.Socket{
		socket("/x", listen.Options{RefuseRights: true, PassCredentials: true}), socket("/y", listen.Options{RefuseRights: true})}}
	s := seal(conf, func() bool { return true })
	if got := [2]listen.Seal{s.sockets[0].Seal, s.sockets[1].Seal}; got != [2]listen.Seal{listen.ReceiveOnly, listen.Relayed} || !s.names || len(s.lesser) == 0 {
		t.Errorf("%v, names %v, %q", got, s.names, s.lesser)
	}
	conf.Sockets = conf.Sockets[1:]
	if s = seal(conf, func() bool { return true }); !s.names {
		t.Error("a relay's clients cannot be answered")
	}
	conf.Sockets[0].Options.PassCredentials = true
	if s = seal(conf, func() bool { return true }); s.names {
		t.Error("no scope, and nothing needs a name")
	}
}
