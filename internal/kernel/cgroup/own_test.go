package cgroup

import (
	"strings"
	"testing"
)

func TestOwnGroup(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string // "": an error
	}{
		{"root", "0::/\n", "."},
		{"unified", "0::/system.slice/activator.service\n", "system.slice/activator.service"},
		{"hybrid", "9:name=systemd:/\n4:memory:/a\n0::/user.slice\n", "user.slice"},
		{"a colon in the name", "0::/a:b\n", "a:b"},
		{"a name with a space", "0::/a b\n", "a b"},
		{"no newline", "0::/a", "a"},
		{"two dots in a name", "0::/..a\n", "..a"},
		{"v1 only", "2:cpu:/\n1:name=systemd:/\n", ""},
		{"nothing", "", ""},
		{"removed", "0::/a (deleted)\n", ""},
		{"outside", "0::/../a\n", ""},
		{"the one outside", "0::/..\n", ""},
		{"another hierarchy", "10::/a\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ownGroup(tt.text)
			if got != tt.want || (err == nil) != (tt.want != "") {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

func FuzzOwnGroup(f *testing.F) {
	f.Add("0::/\n")
	f.Add("4:memory:/a\n0::/user.slice/b (deleted)\n")
	f.Fuzz(func(t *testing.T, text string) {
		path, err := ownGroup(text)
		if err != nil {
			if path != "" {
				t.Errorf("%q and %v", path, err)
			}
			return
		}
		if path == "" || path == ".." || strings.HasPrefix(path, "../") || strings.Contains(path, "\n") {
			t.Errorf("%q of %q", path, text)
		}
	})
}
