package service

import (
	"os"
	"strings"
	"testing"

	"activator/internal/spec"
)

// A path that the service has is told of no more: its mode and its owner are somebody else's affair.
func TestHas(t *testing.T) {
	s := shared{Service: new(Service)}
	s.spec.Directories = []spec.Directory{{Kind: "cache", Name: "there"}}
	if os.Geteuid() != 0 {
		t.Setenv("XDG_CACHE_HOME", "/var/cache")
	}
	s.spec.Sandbox.ReadOnly = []spec.Mount{{Host: "/var/log", Inside: "/var/log/there"}}
	for at, want := range map[string]bool{"/var/cache/there/x": true, "/var/log/there": true, "/var/log/there2": false, "/var/cache/x": false} {
		if s.has(at, false) != want {
			t.Errorf("%s: not %v", at, want)
		}
	}
	if s.has("/var/log/there", true) || !s.has("/var/cache/there/x", true) {
		t.Error("what it only reads, it may not write")
	}
}

func TestHintsAreToldOnce(t *testing.T) {
	var h hints
	if !h.isNew("a") || h.isNew("a") || !h.isNew("b") {
		t.Error("not once")
	}
	for n := range 10 * mostHints {
		h.isNew(strings.Repeat("x", n))
	}
	if len(h.told) != mostHints {
		t.Errorf("%d hints are kept", len(h.told))
	}
}
