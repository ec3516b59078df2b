package usernotif

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// A program that is observed gets the filter's answers, and what it is refused is told, each thing once and not too many.
func TestObserved(t *testing.T) {
	var said []string
	s := supervise(t, t.Context(), Policy{Own: true, Tell: func(f spec.Finding) { said = append(said, f.Text) },
		Handed: []spec.Socket{{Address: parsed("tcp://127.0.0.1:80")}, {Address: parsed("unix:///s")}},
		Refusal: func(number, machine uint32, args [6]uint64) spec.Refusal {
			if number == unix.SYS_CONNECT {
				return spec.Refusal{Call: "connect", Errno: unix.EPERM, Key: `connect = "any"`}
			}
			return spec.Refusal{}
		}})
	for range 3 {
		s.wants("own tcp refused", "operation not permitted")
		s.wants("own unix", "connect: operation not permitted") // bind and listen are passed on
		s.wants("dissolve the listener", "operation not permitted")
		s.wants("no memory", "operation not permitted")
		s.wants("listen on the listener", "ok")
	}
	for range 2 * mostTold {
		s.wants("own tcp", "connect: operation not permitted") // to another port each time
	}
	s.end()
	for _, want := range []string{"was refused to connect to tcp://127.0.0.1:9 (EPERM): connect = \"any\"", "was refused to connect to unix://@own (EPERM): write connect = \"unix\"",
		"binds unix://@own itself"} {
		if !slices.ContainsFunc(said, func(text string) bool { return strings.HasPrefix(text, want) }) {
			t.Errorf("nobody says %q: %q", want, said)
		}
	}
	connects := 0
	for i, text := range said {
		if slices.Contains(said[:i], text) {
			t.Errorf("said twice: %q", text)
		}
		if strings.Contains(text, "connect to") {
			connects++
		}
	}
	if connects != mostTold {
		t.Errorf("%d refused addresses are told, not %d", connects, mostTold)
	}
}
