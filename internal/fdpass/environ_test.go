package fdpass

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"", "foo", "foo bar", "~!@#$%^&*()", strings.Repeat("x", 255), "a=b"} {
		if err := checkName(name); err != nil {
			t.Errorf("%q is valid in systemd: %v", name, err)
		}
	}
	for _, name := range []string{"foo:bar", ":", "a\nb", "\x7f", "ä", "a\x00", strings.Repeat("x", 256)} {
		if err := checkName(name); err == nil {
			t.Errorf("%q is not valid in systemd", name)
		}
		if _, err := MakeEnviron([]string{"good", name}, 1, -1); err == nil {
			t.Errorf("Environ takes %q", name)
		}
	}
}

func TestEnvironOfNothing(t *testing.T) {
	if env, err := MakeEnviron(nil, 1, -1); env != nil || err != nil {
		t.Fatalf("got %v, %v", env, err)
	}
}

func TestStrip(t *testing.T) {
	env := []string{"A=1", "LISTEN_FDS=3", "LISTEN_PID=1", "LISTEN_FDNAMES=a", "LISTEN_PIDFDID=7", "LISTEN_TOMORROW=x",
		"LISTENER=stays", "NOTIFY_SOCKET=/x", "NOTIFY_SOCKETS=stays", "WATCHDOG_USEC=1", "WATCHDOG_PID=1", "WATCHDOG=stays", "LISTEN_=", "B=LISTEN_FDS=3", "malformed"}
	before := slices.Clone(env)
	want := []string{"A=1", "LISTENER=stays", "NOTIFY_SOCKETS=stays", "WATCHDOG=stays", "B=LISTEN_FDS=3", "malformed"}
	if got := StripEnviron(env); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if !slices.Equal(env, before) {
		t.Errorf("the argument changed: %q", env)
	}
}
