package spawn

import (
	"io"
	"os"
	"testing"
)

// run starts spec, with nothing but what is given, and returns what it printed.
func run(t *testing.T, spec Spec, sockets ...*os.File) (string, Exit) {
	t.Helper()
	s := NewStarter()
	defer s.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p, err := s.Prepare(t.Context(), spec, Stdio{Out: w, Err: w}, sockets)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return string(out), exit
}

func helperSpec(args ...string) Spec {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Spec{Name: "test", Argv: append([]string{exe, "helper"}, args...),
		Env: []string{"PATH=/usr/bin:/bin", "GORACE=atexit_sleep_ms=0"}, Umask: 0o22}
}

func TestView(t *testing.T) {
	out, exit := run(t, helperSpec("view"))
	t.Log(out, exit)
}
