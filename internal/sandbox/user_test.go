package sandbox

import (
	"os"
	"slices"
	"strings"
	"testing"

	"activator/internal/spec"
)

// What is added for a user, below what the configuration mounts, and what is not.
func TestInsideEntries(t *testing.T) {
	stranger := Inside{Name: "shop", UID: 61234, GID: 61235, Home: "/"}
	homes := func(home string) Inside { return Inside{Name: "root", Home: home} }
	for _, test := range []struct {
		name   string
		s      spec.Sandbox
		inside Inside
		want   string // paths
	}{
		{"a stranger", spec.Sandbox{}, stranger, "/etc/passwd /etc/group"},
		{"root", spec.Sandbox{}, homes("/root"), "/root"},
		{"nobody's", spec.Sandbox{}, Inside{}, ""},
		{"a home with a slash", spec.Sandbox{}, homes("/home/me/"), "/home/me"},
		{"no home", spec.Sandbox{}, homes("/nonexistent"), ""},
		{"a home elsewhere", spec.Sandbox{}, homes("/var/lib/me"), ""},
		{"all homes", spec.Sandbox{}, homes("/home"), ""},
		{"a home that is mounted", spec.Sandbox{ReadOnly: []spec.Mount{{Host: "/srv", Inside: "/home/me"}}}, homes("/home/me"), ""},
		{"homes that are", spec.Sandbox{Tmpfs: []string{"/home"}}, homes("/home/me"), ""},
		{"something in it", spec.Sandbox{ReadOnly: []spec.Mount{{Host: "/srv", Inside: "/home/me/app"}}}, homes("/home/me"), "/home/me"},
		{"passwd is mounted", spec.Sandbox{ReadOnly: []spec.Mount{{Host: "/srv/passwd", Inside: "/etc/passwd"}}}, stranger, "/etc/group"},
		{"all of etc", spec.Sandbox{ReadOnly: []spec.Mount{{Host: "/srv", Inside: "/etc"}}}, stranger, ""},
		{"handed", spec.Sandbox{}, Inside{Handed: true}, "/run/systemd /run/systemd/system"},
	} {
		entries, err := listEntries(test.s, "sh", nil, test.inside)
		if err != nil {
			t.Fatal(err)
		}
		plain, _ := listEntries(test.s, "sh", nil, Inside{})
		var added []string
		for _, e := range entries {
			if !slices.Contains(plain, e) {
				added = append(added, e.Path)
			}
		}
		if got := strings.Join(added, " "); got != test.want {
			t.Errorf("%s: %q, not %q", test.name, got, test.want)
		}
		asked := slices.IndexFunc(entries, func(e rootEntry) bool { return slices.Contains(plain, e) && e.Asked })
		for i, e := range entries {
			if asked >= 0 && i > asked && slices.Contains(added, e.Path) {
				t.Errorf("%s: %s comes after what is asked for", test.name, e.Path)
			}
		}
	}
}

// A name of the host's group is not given to another one; that of a dynamic user is its own.
func TestInsideNames(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"passwd": "shop:x:5:5::/:\n", "group": "shop:x:5:\n"} {
		if err := os.WriteFile(root+"/etc/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	texts := func(in Inside) (list []string) {
		for _, e := range in.listEntries(root, nil) {
			list = append(list, e.text)
		}
		return list
	}
	if got := texts(Inside{Name: "shop", UID: 61234, GID: 61234, Home: "/"}); !slices.Equal(got, []string{"shop:x:61234:61234:service:/:/usr/sbin/nologin\n", "shop:x:61234:\n"}) {
		t.Errorf("%q", got)
	}
	if got := texts(Inside{Name: "shop", UID: 5, GID: 4242, Home: "/"}); got != nil {
		t.Errorf("%q", got)
	}
	if got := texts(Inside{Name: "other", UID: 5, GID: 4242, Home: "/"}); !slices.Equal(got, []string{"other:x:4242:\n"}) {
		t.Errorf("%q", got)
	}
	if err := os.Chmod(root+"/etc/passwd", 0o600); err != nil {
		t.Fatal(err)
	}
	if got := texts(Inside{Name: "shop", UID: 61234, GID: 5}); got != nil {
		t.Errorf("%q of a file that the service cannot read", got)
	}
}
