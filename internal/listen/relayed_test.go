package listen

import (
	"fmt"
	"os"
	"testing"

	"activator/internal/ktest"
	"activator/internal/relay"
	"activator/internal/spec"
)

// A relay takes nothing before it is in front, and where it cannot be, nothing at all.
func TestRelayTakesNothingBeforeItIsInFront(t *testing.T) {
	r := &relays{t: t}
	w := start(t)
	var inTheWay bool
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, Means{StandIn: func(host *os.File, spec spec.Socket, u *relay.Undelivered) (StandIn, error) {
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
