package config

import (
	"strings"
	"testing"
)

func TestCarried(t *testing.T) {
	for _, tt := range []struct{ sockets, more, says string }{
		{"listen = [\"tcp://:80\", \"unix:///run/a\"]\ntarget = \"tcp://:8000\"", "", ""},
		{"listen = [\"tcp://:80\"]\ntarget = \"unix:///run/a\"", "proxy_protocol = \"v2\"\nmax_connections = 5\nconnection_timeout = \"1m\"\n", ""},
		{"listen = [\"unix://@a\"]", "", ""},
		{"listen = [\"udp://:80\", \"tcp://:80\"]", "", ""},
		{"listen = [\"udp://:80\"]\ntarget = \"udp4://127.0.0.1:8000\"", "connection_timeout = \"1m\"\n", ""},
		{"listen = [\"udp://:80\"]\ntarget = \"tcp://:80\"", "", "tcp://:80 is nothing that datagrams can be carried to"},
		{"listen = [\"unixgram:///run/a\"]", "", "unixgram:///run/a cannot be carried"},
		{"listen = [\"unixpacket:///run/a\"]", "", "cannot be carried"},
		{"listen = [\"tcp://:80\"]\ntarget = \"udp://:80\"", "", "udp://:80 is nothing that connections can be carried to"},
		{"listen = [\"tcp://:80\"]", "[sandbox]\nnetwork = \"host\"\n", "network of its own"},
		{"listen = [\"tcp://:80\"]", "[container]\nimage = \"x\"\n", "has no meaning here"},
		{"listen = [\"tcp://:80\"]", "proxy_protocol = \"v3\"\n", "unknown word"},
	} {
		_, err := parseText("x.toml", []byte("[[socket]]\n"+tt.sockets+"\n[service]\nexec = [\"/bin/true\"]\nhandover = \"proxy\"\n"+tt.more), somewhere)
		if tt.says == "" && err != nil || tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s, %s: got %v, want %q", tt.sockets, tt.more, err, tt.says)
		}
	}
	s, err := parseText("x.toml", []byte("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/true\"]\nhandover = \"proxy\"\n"), somewhere)
	if err != nil || s.Sockets[0].Target.String() != "tcp://:80" || s.MaxConns != 0 {
		t.Errorf("by default the target is %q, max_connections %d: %v", s.Sockets[0].Target, s.MaxConns, err)
	}
	if _, err := parseText("x.toml", []byte("[[socket]]\nlisten = [\"tcp://:80\"]\n[service]\nexec = [\"/bin/true\"]\nproxy_protocol = \"v1\"\n"), somewhere); err == nil {
		t.Error("proxy_protocol is taken without the proxy")
	}
}
