package seal

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
	"activator/internal/listen"
	"activator/internal/spec"
)

// A reload changes what a sealed listener withholds from its service, while a client waits; a service
// changes nothing.
func TestAdoptWithheld(t *testing.T) {
	ktest.Filters(t)
	r := New(slog.New(slog.DiscardHandler))
	defer r.Close()
	if !r.Accepting() {
		if os.Geteuid() != 0 {
			t.Skip("sealing listeners needs root")
		}
		ktest.Skip(t, "no programs for listeners: %v", r.listeners.refusal)
	}
	address, err := spec.ParseAddress(fmt.Sprint("tcp://127.0.0.1:", ktest.Port(t)))
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Socket{Address: address, Seal: spec.AcceptOnly, Name: "test"}
	sockets, err := listen.OpenAll(t.Context(), []spec.Socket{want}, r.Means())
	if err != nil {
		t.Fatal(err)
	}
	defer sockets[0].Close()
	client, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", address.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, probes := range []int{5, 6} {
		want.Options.KeepAlive, want.Options.KeepAliveTime, want.Options.KeepAliveProbes = true, time.Minute, probes
		if !sockets[0].AdoptSpec(want) {
			t.Fatal("not adopted")
		}
		checkProbes(t, sockets[0], probes)
	}
	if waiting, err := sockets[0].WaitingClients(); len(waiting) != 1 || err != nil {
		t.Errorf("%v wait, %v", waiting, err)
	}
}

// checkProbes reads an option as a service would, which sets it too: that changes nothing.
func checkProbes(t *testing.T, s *listen.Socket, probes int) {
	t.Helper()
	file, err := s.Lend()
	if err == nil {
		err = fd.Control(file, func(fd int) error {
			if got, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT); got != probes || err != nil {
				t.Errorf("TCP_KEEPCNT %d, %v; want %d", got, err, probes)
			}
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1)
		})
	}
	if err != nil {
		t.Error(err)
	}
	if what, err := s.Mend(); what != "" || err != nil {
		t.Errorf("Mend: %q, %v", what, err)
	}
}
