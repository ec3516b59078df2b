package config

import (
	"strings"
	"testing"
)

// A container is sealed as a sandbox is, and its programs connect to what the same words say.
func TestContainerSealed(t *testing.T) {
	for _, tt := range []struct{ sandbox, container, says string }{
		{"", "", ""},
		{"seal = \"best-effort\"\nconnect = \"unix\"", "", ""},
		{"connect = \"any\"", "", "no internet socket can be made in the container"},
		{"connect = \"any\"", "internet_sockets = true", ""},
		{"connect = \"any\"\nnetwork = \"netns:x\"", "", ""},
		{"network = \"netns:x\"", "internet_sockets = true", "so they can be made"},
		{"network = \"host\"\nseal = \"off\"", "", "has no meaning here: network is"},
	} {
		text := "[[socket]]\nlisten = [\"unix:///s\"]\n[sandbox]\n" + tt.sandbox + "\n[container]\nimage = \"x\"\n" + tt.container + "\n"
		s, err := parseText("x.toml", []byte(text), somewhere)
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%q %q: want %q, got:\n%v", tt.sandbox, tt.container, tt.says, err)
		}
		if err == nil && (s.Seal == "off" || !s.Sandbox.Seal || !s.Sockets[0].Options.RefuseRights) {
			t.Errorf("%q: not sealed", tt.sandbox)
		}
	}
}
