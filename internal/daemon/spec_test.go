package daemon

import (
	"strings"
	"testing"
	"time"

	"activator/internal/config"
	"activator/internal/listen"
)

// Who asks for a service to be stopped when idle is told where that cannot be seen.
func TestCheckIdle(t *testing.T) {
	for _, test := range []struct {
		address string
		seal    listen.Seal
		idle    time.Duration
		want    string
	}{
		{"tcp://127.0.0.1:1", listen.Unsealed, time.Second, ""},
		{"unixgram:///x", listen.Unsealed, 0, ""},
		{"unixgram:///x", listen.Unsealed, time.Second, "service test: idle_timeout: unixgram:///x: nothing tells when"},
		{"unixgram:///x", listen.Relayed, time.Second, ""},
	} {
		address, err := listen.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		err = checkIdle(config.Service{Name: "test", IdleTimeout: test.idle}, []listen.Spec{{Address: address, Seal: test.seal}})
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %v: %v, want %q", test.address, test.idle, err, test.want)
		}
	}
}

// Landlock keeps a service from what clients may pass in, where they may.
func TestPassed(t *testing.T) {
	for _, test := range []struct {
		address, handover string
		refuse            bool
		want              bool
	}{
		{"unix:///x", "fds", true, !listen.CanRefuseRights()},
		{"unix:///x", "fds", false, true},
		{"unix:///x", "proxy", false, false}, // what comes is dropped
		{"tcp://127.0.0.1:1", "fds", false, false},
	} {
		address, err := listen.ParseAddress(test.address)
		if err != nil {
			t.Fatal(err)
		}
		conf := config.Service{Name: "test", Handover: test.handover}
		conf.Sockets = []config.Socket{{Spec: listen.Spec{Address: address, Options: listen.Options{RefuseRights: test.refuse}}}}
		all, err := plan(t.Context(), []config.Service{conf}, func() bool { return true })
		if err != nil {
			t.Fatal(err)
		}
		if got := all[0].spec.Process.Sandbox.Unmounted; got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}
