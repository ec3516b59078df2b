package listen

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// A relay takes nothing before it is in front, and where it cannot be, nothing at all.
func TestRelayTakesNothingBeforeItIsInFront(t *testing.T) {
	r := &relays{t: t}
	w := start(t)
	var inTheWay bool
	s := openWith(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), spec.Relayed, withRelaySocket(func(host *os.File, spec spec.Socket, u *udprelay.Undelivered) (RelaySocket, error) {
		x, err := r.relaySocket(host, spec, u)
		if inTheWay {
			_ = x.File().Close() // it cannot be watched
		}
		return x, err
	}))
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

// What a service may send, and is told, is on the relay socket that it has in place of ours, and
// is there again after it has had it.
func TestRelayedHasItsOptions(t *testing.T) {
	const sol = unix.SOL_SOCKET
	r := &relays{t: t}
	want := socketSpec(t, fmt.Sprint("udp://127.0.0.1:", ktest.Port(t)), func(o *spec.Options) {
		o.Broadcast, o.SendBuffer, o.PassPacketInfo, o.Timestamping, o.Priority, o.PrioritySet = true, 50000, true, "ns", 3, true
	})
	want.Seal = spec.Relayed
	s, err := openOne(want, r.means())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check := func() {
		t.Helper()
		asService(t, s, func(fd int) {
			for _, o := range [][3]int{{sol, unix.SO_BROADCAST, 1}, {sol, unix.SO_SNDBUF, 100000}, {unix.IPPROTO_IP, unix.IP_PKTINFO, 1}, {sol, unix.SO_TIMESTAMPNS, 1}, {sol, unix.SO_PRIORITY, 0}} {
				if got, err := unix.GetsockoptInt(fd, o[0], o[1]); got != o[2] || err != nil {
					t.Errorf("level %d, option %d: %d, %v, want %d", o[0], o[1], got, err, o[2])
				}
			}
		})
	}
	check()
	asService(t, s, func(fd int) {
		if err := unix.SetsockoptInt(fd, sol, unix.SO_BROADCAST, 0); err != nil {
			t.Fatal(err)
		}
	})
	if what, err := s.Mend(); err != nil || !strings.Contains(what, "SO_BROADCAST; set back") {
		t.Errorf("Mend: %q, %v", what, err)
	}
	check()
}
