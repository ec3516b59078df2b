package process

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

func TestReplaced(t *testing.T) {
	for _, tt := range []struct{ env, more, want []string }{
		{nil, nil, nil},
		{[]string{"A=1"}, nil, []string{"A=1"}},
		{nil, []string{"A=1"}, []string{"A=1"}},
		{[]string{"A=1", "AB=2", "A=3", "C"}, []string{"A=", "D=4"}, []string{"AB=2", "C", "A=", "D=4"}},
	} {
		before := slices.Clone(tt.env)
		if got := replaceEntries(tt.env, tt.more); !slices.Equal(got, tt.want) || !slices.Equal(tt.env, before) {
			t.Errorf("%q with %q is %q, want %q", before, tt.more, got, tt.want)
		}
	}
}

// The socket of a client is the program's stdin and stdout, with a reaper too, and
// what is said of it replaces what the environment said. (As descriptor 3: package
// service.)
func TestHand(t *testing.T) {
	for _, init := range []bool{false, true} {
		process := helperSpec("view")
		process.Handed, process.Sandbox.Init, process.Env = spec.LaterStdio, init, append(process.Env, "REMOTE_ADDR=old")
		ours, theirs := socketPair(t)
		s := starterFor()
		p, err := s.Prepare(t.Context(), process, Inputs{})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.ReleaseWith(theirs, []string{"REMOTE_ADDR=new"}); err != nil {
			t.Fatal(err)
		}
		_ = theirs.Close()
		if err := p.AwaitExec(t.Context()); err != nil {
			t.Fatal(err)
		}
		var v View
		if err := json.NewDecoder(ours).Decode(&v); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(v.Files[:2], []string{"0 socket", "1 socket"}) || v.Env["REMOTE_ADDR"] != "new" {
			t.Errorf("init %v: has %q, told %q", init, v.Files, v.Env)
		}
		_ = p.Close()
		_ = ours.Close()
		s.Close()
	}
}

// A child that is gone cannot be handed anything, and that is told apart from a
// program that cannot be started.
func TestHandToNobody(t *testing.T) {
	process := helperSpec("view")
	process.Handed = spec.LaterFD
	process.FDNames = []string{"connection"}
	ours, theirs := socketPair(t)
	defer ours.Close()
	defer theirs.Close()
	s := starterFor()
	defer s.Close()
	p, err := s.Prepare(t.Context(), process, Inputs{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.Kill()
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	var refused *StepError
	if err := p.ReleaseWith(theirs, nil); !errors.As(err, &refused) || refused.Step != "hand" || refused.Errno != unix.EPIPE && refused.Errno != unix.ECONNRESET {
		t.Errorf("got %v", err)
	}
}

func socketPair(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
}
