package listen

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"activator/internal/ktest"
	"activator/internal/relay"
)

// A stand-in that relays no more is dropped when its service is asked to look, and
// the service that has it is told to start anew.
func TestBrokenStandIn(t *testing.T) {
	r := &relays{t: t}
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), Relayed, r.means())
	if _, err := s.Lend(); err != nil {
		t.Fatal(err)
	}
	if what, err := s.HealNode(); what != "" || err != nil {
		t.Errorf("a healthy one: %q, %v", what, err)
	}
	r.last.broken = true
	what, err := s.HealNode()
	if err != nil || !strings.Contains(what, "its relay had ended") || s.Generation() != 1 {
		t.Errorf("%q, %v, generation %d", what, err, s.Generation())
	}
	if _, err := s.Lend(); err != nil || r.made != 2 {
		t.Errorf("%v, %d made", err, r.made)
	}
}

// A relay takes nothing before it is in front, and where it cannot be, nothing at all.
func TestRelayTakesNothingBeforeItIsInFront(t *testing.T) {
	r := &relays{t: t}
	w := start(t)
	var inTheWay bool
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), Relayed, Means{StandIn: func(host *os.File, spec Spec, u *relay.Undelivered) (StandIn, error) {
		x, err := r.standIn(host, spec, u)
		if inTheWay {
			_ = x.File().Close() // it cannot be watched
		}
		return x, err
	}})
	arm(t, w, s)
	inTheWay = true
	answer := client(t, s)
	if _, err := s.LendAhead(); err == nil {
		t.Fatal("it is in front")
	}
	if n := r.last.carried.Load(); n != 0 || r.last.done != nil {
		t.Errorf("it has taken %d", n)
	}
	inTheWay = false
	serveOne(t, s)
	answer()
	if r.last.done == nil {
		t.Error("it does not run")
	}
}
