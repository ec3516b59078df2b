package sandbox

import (
	"bytes"
	"errors"
	"testing"

	"activator/internal/spec"
)

func TestWordsOfTheSpec(t *testing.T) {
	for _, s := range []spec.Sandbox{{Connect: "some"}, {Syscalls: "all"}} {
		_, err := NewPlan(s, "x", "true", nil, Inside{})
		if refused := new(StepError); !errors.As(err, &refused) || refused.Cure == "" {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// Landlock as far as each kernel has it. Reading is refused to who may get hold of what
// is not mounted.
func TestLandlockByABI(t *testing.T) {
	const reading = 0x400c
	entries := []rootEntry{{Kind: entryTmpfs, Path: "/tmp"}, {Kind: entryReadOnly, Path: "/usr"}, {Kind: entryWritable, Path: "/data", Source: "/usr"}, {Kind: entryWritable, Path: "/file", Source: "/bin/sh"}}
	for abi, want := range map[int][3]uint64{0: {}, 1: {}, 2: {0x3fff, 0, 0}, 3: {0x7fff, 0, 0}, 4: {0x7fff, 3, 0}, 5: {0xffff, 3, 0}, 6: {0xffff, 3, 3}, 9: {0xffff, 3, 3}} {
		for _, s := range []spec.Sandbox{{Seal: true, Unmounted: true}, {Seal: true}} {
			want := want
			if !s.Unmounted {
				want[0] &^= reading
			}
			l := chooseLandlock(s, abi, entries)
			if got := [3]uint64{l.Files, l.Net, l.Scoped}; got != want {
				t.Errorf("ABI %d: %+v: %#x, not %#x", abi, s, got, want)
			}
			for _, g := range l.Grants {
				devices := g.Access & deviceRights
				if g.Access == 0 || g.Access&^l.Files != 0 || devices != 0 || g.Path == "/usr" || g.Path == "/file" && g.Access&^writeRights != 0 || g.Path == "" {
					t.Errorf("ABI %d: %+v: %+v", abi, s, g)
				}
			}
		}
	}
	// The first one refuses renames, so it is for who has nothing of his own to rename.
	fresh := entries[:2]
	if l := chooseLandlock(spec.Sandbox{Unmounted: true}, 1, fresh); l.Files != 0x1fff {
		t.Errorf("ABI 1: %#x", l.Files)
	}
	if l := chooseLandlock(spec.Sandbox{}, 1, fresh); l.Files != 0 {
		t.Errorf("ABI 1, nothing to get hold of: %#x", l.Files)
	}
	if l := chooseLandlock(spec.Sandbox{}, 7, entries); l.Net != 0 || l.Scoped != 0 || l.Files == 0 {
		t.Errorf("unsealed: %+v", l)
	}
	if l := chooseLandlock(spec.Sandbox{Syscalls: "any", Seal: true, Unmounted: true}, 7, entries); l.Files != 0 || len(l.Grants) != 0 || l.Net == 0 {
		t.Errorf("any: %+v", l)
	}
}

func TestSealLacks(t *testing.T) {
	for _, test := range []struct {
		kernel Kernel
		want   int
	}{
		{Kernel{true, 7}, 0},
		{Kernel{true, 0}, 0},
		{Kernel{false, 7}, 1},
	} {
		if got := test.kernel.SealLacks(); len(got) != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
	for abi, want := range map[int]string{0: "no Landlock for files: ABI 2; here it is off", 1: "no Landlock for files: ABI 2, Linux 5.19; here it is ABI 1"} {
		if got := (Kernel{true, abi}).WithoutFiles(); got != want {
			t.Errorf("ABI %d: %s", abi, got)
		}
	}
	for abi, want := range map[int]string{0: "off", 4: "ABI 4, without device ioctls (ABI 5, Linux 6.10), abstract unix names and signals (ABI 6, Linux 6.12)", 7: "ABI 7"} {
		if a := landlockAbility(abi); a.Detail != want || a.OK != (abi >= 6) {
			t.Errorf("%+v", a)
		}
	}
}

// The filter leaves to Landlock what Landlock refuses, from ABI 4 on.
func TestFilterLeavesTCPToLandlock(t *testing.T) {
	filter := func(landlock int) []byte {
		var p Plan
		addRestrictions(spec.Sandbox{Seal: true}, &p, landlock)
		return p.filter
	}
	if bytes.Equal(filter(3), filter(4)) || !bytes.Equal(filter(0), filter(3)) || !bytes.Equal(filter(4), filter(7)) {
		t.Error("the ABIs differ elsewhere")
	}
}
