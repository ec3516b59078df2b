package seal

import (
	"strings"
	"testing"

	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Where a service may fill a queue that its next run reads, that is said.
func TestRefilled(t *testing.T) {
	newer := sandbox.Kernel{Filters: true, Landlock: 7}
	for _, test := range []struct {
		address string
		kernel  sandbox.Kernel
		change  func(*spec.Service)
		says    string // "": nothing
	}{
		{"fifo:///x/f", newer, nil, ""},
		{"fifo:///x/f", sandbox.Kernel{Landlock: 1}, nil, ""},
		{"fifo:///x/f", sandbox.Kernel{}, nil, "by its descriptor (no Landlock"},
		{"fifo:///x/f", sandbox.Kernel{Landlock: 1}, func(s *spec.Service) { s.Sandbox.Writable = []spec.Mount{{Host: "/y", Inside: "/y"}} }, "by its descriptor"},
		{"fifo:///x/f", newer, func(s *spec.Service) { s.Sandbox.Syscalls = "any" }, "by its descriptor (syscalls"},
		{"fifo:///x/f", newer, func(s *spec.Service) { s.Container = new(spec.Container) }, "by its descriptor (under"},
		{"fifo:///x/f", newer, func(s *spec.Service) { s.Sandbox.Writable = []spec.Mount{{Host: "/x", Inside: "/y"}} }, "a folder that it is shown"},
		{"fifo:///x/f", newer, func(s *spec.Service) { s.Sandbox.ReadOnly = []spec.Mount{{Host: "/x", Inside: "/y"}} }, ""},
		{"fifo:///run/own/f", newer, func(s *spec.Service) { s.Directories = []spec.Directory{{Kind: "runtime", Name: "own"}} }, "a folder that it is shown"},
		{"fifo:///run/owner/f", newer, func(s *spec.Service) { s.Directories = []spec.Directory{{Kind: "runtime", Name: "own"}} }, ""},
		{"unixgram:///x/g", sandbox.Kernel{}, nil, ""},
		{"unixgram:///x/g", newer, func(s *spec.Service) { s.Sandbox.ReadOnly = []spec.Mount{{Host: "/x", Inside: "/y"}} }, "a folder that it is shown"},
		{"unixgram:///x/g", newer, func(s *spec.Service) { s.Sandbox.Root = "/x" }, "a folder that it is shown"},
		{"unixgram://@g", sandbox.Kernel{}, nil, ""},
		{"udp://127.0.0.1:1", sandbox.Kernel{}, nil, ""},
	} {
		address, err := spec.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		conf := spec.Service{Sockets: []spec.Socket{{Address: address}}}
		if test.change != nil {
			test.change(&conf)
		}
		if got := strings.Join(listRefilled(&conf, test.kernel), "; "); !strings.Contains(got, test.says) || test.says == "" && got != "" {
			t.Errorf("%s, %+v: %q, want %q", test.address, conf.Sandbox, got, test.says)
		}
	}
}
