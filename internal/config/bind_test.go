package config

import (
	"strings"
	"testing"
)

// A file whose program binds, with what is written below [[socket]].
func bindsWith(sockets, more string) string {
	return sockets + "\n[service]\nexec = [\"/bin/true\"]\nhandover = \"bind\"\n" + more
}

func TestTargets(t *testing.T) {
	for _, tt := range []struct{ sockets, more, says string }{
		{"[[socket]]\nlisten = [\"tcp://127.0.0.1:80\", \"udp://:80\", \"unix://@a\"]", "", ""},
		{"[[socket]]\nlisten = [\"tcp4://:80\"]\ntarget = \"tcp://:8080\"", "", ""},
		{"[[socket]]\nlisten = [\"unix:///run/a\"]\ntarget = \"unix:///tmp/a\"", "", ""},
		{"[[socket]]\nlisten = [\"tcp://:80\"]\ntarget = \"udp://:80\"", "", "udp://:80 is another kind of socket than tcp://:80"},
		{"[[socket]]\nlisten = [\"unix:///run/a\"]\ntarget = \"unixgram:///run/a\"", "", "another kind of socket"},
		{"[[socket]]\nlisten = [\"tcp://:80\", \"udp://:80\"]\ntarget = \"tcp://:80\"", "", "tcp://:80 is another kind of socket than udp://:80"},
		{"[[socket]]\nlisten = [\"tcp://:80\"]\ntarget = \"tcp://:1\"\n[[socket]]\nlisten = [\"tcp://:81\"]\ntarget = \"tcp://:1\"", "", "tcp://:1 is the target of another address already, at x.toml:3:10"},
		{"[[socket]]\nlisten = [\"tcp://:80\"]\ntarget = \"tcp://:81\"\n[[socket]]\nlisten = [\"tcp://:81\"]", "", "tcp://:81 is the target of another address already"},
		{"[[socket]]\nlisten = [\"tcp4://:80\", \"tcp6://:80\"]\ntarget = \"tcp://:80\"", "", "is the target of another address already"},
		{"[[socket]]\nlisten = [\"unix:///run/a\"]\ntarget = \"unix://./a\"", "", "is a path inside"},
		{"[[socket]]\nlisten = [\"unix:///run/a\"]\ntarget = \"unix://a\"", "", "not absolute"},
		{"[[socket]]\nlisten = [\"tcp://:80\"]\ntarget = \"tcp://:0\"", "", "port 0"},
		{"[[socket]]\nlisten = [\"tcp://:80\"]\ntarget = \"tcp://localhost:80\"", "", "names are not looked up"},
		{"[[socket]]\nlisten = [\"fifo:///run/a\"]", "", "fifo:///run/a cannot be bound by the program"},
		{"[[socket]]\nlisten = [\"vsock://:80\"]", "", "vsock://:80 cannot be bound by the program"},
		{"[[socket]]\nlisten = [\"unix:///srv/a\"]", "[sandbox]\nwritable = [\"/srv\"]", "lies in a folder that the program may write to, /srv"},
		{"[[socket]]\nlisten = [\"unix://%t/app/a\"]", "runtime_directory = \"app\"", "lies in a folder that the program may write to, /run/user/1000/app"},
		{"[[socket]]\nlisten = [\"unix://%t/apple\"]", "runtime_directory = \"app\"", ""},
	} {
		_, err := parseText("x.toml", []byte(bindsWith(tt.sockets, tt.more)), somewhere)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s\nwant %q, got:\n%v", tt.sockets, tt.says, err)
		}
	}
	text := "[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nhandover = \"bind\"\n[container]\nimage = \"x\"\n"
	if _, err := parseText("x.toml", []byte(text), somewhere); err == nil || !strings.Contains(err.Error(), "a container gets its sockets as descriptors") {
		t.Errorf("a container: %v", err)
	}
}

// Without a target it is the address, and is printed.
func TestTargetByDefault(t *testing.T) {
	s, err := parseText("x.toml", []byte(bindsWith("[[socket]]\nlisten = [\"tcp://0.0.0.0:80\", \"unix:///run/a%%b\"]", "")), somewhere)
	if err != nil {
		t.Fatal(err)
	}
	if s.Sockets[0].Target.String() != "tcp4://:80" || s.Sockets[1].Target.String() != "unix:///run/a%b" {
		t.Errorf("targets %q and %q", s.Sockets[0].Target, s.Sockets[1].Target)
	}
	again, err := parseText("x.toml", AppendTOML(nil, s), somewhere)
	if err != nil || again.Sockets[1].Target != s.Sockets[1].Target || !strings.Contains(string(AppendTOML(nil, s)), `target = "unix:///run/a%%b"`) {
		t.Errorf("%v:\n%s", err, AppendTOML(nil, s))
	}
}

// Datagrams that come to an address of IPv4 are for a program of IPv6 where the target says six.
func TestTargetMapped(t *testing.T) {
	for sockets, mapped := range map[string]bool{
		"listen = [\"udp://127.0.0.1:80\"]\ntarget = \"udp6://:80\"":     true,
		"listen = [\"udp://127.0.0.1:80\"]\ntarget = \"udp://[::1]:80\"": true,
		"listen = [\"udp4://:80\"]\ntarget = \"udp6://:80\"":             true,
		"listen = [\"udp://127.0.0.1:80\"]\ntarget = \"udp://:80\"":      false,
		"listen = [\"udp://127.0.0.1:80\"]":                              false,
		"listen = [\"udp://[::1]:80\"]\ntarget = \"udp6://:80\"":         false,
		"listen = [\"udp://:80\"]\ntarget = \"udp6://:80\"":              false,
		"listen = [\"tcp://127.0.0.1:80\"]\ntarget = \"tcp6://:80\"":     false,
	} {
		s, err := parseText("x.toml", []byte(bindsWith("[[socket]]\n"+sockets, "")), somewhere)
		if err != nil || s.Sockets[0].Mapped != mapped {
			t.Errorf("%s: mapped %v, %v", sockets, !mapped, err)
		}
	}
}
