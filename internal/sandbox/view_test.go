package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// viewFolder is a folder that everybody reaches, with files of the given names; those
// that end in a slash are folders, and "a -> b" is a link.
func viewFolder(t *testing.T, names ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "view")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		name, target, link := strings.Cut(name, " -> ")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		switch {
		case link:
			err = os.Symlink(target, path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// nobody is a user that no file belongs to.
var nobody = Viewer{UID: NoID, GID: NoID}

// Paths lead where they will lead inside: through links of both sides, over mounts and
// back, and nowhere else.
func TestViewFind(t *testing.T) {
	dir := viewFolder(t, "root/usr/bin/sh", "root/usr/lib/x", "root/bin -> usr/bin", "root/up -> ../../etc",
		"root/away -> /data/file", "root/loop -> loop", "root/etc/passwd", "root/var/lost", "data/file", "data/sub/deep", "data/back -> ../usr/lib/x",
		"other/file", "list")
	policy := spec.Sandbox{Root: dir + "/root", ReadOnly: []spec.Mount{{Host: dir + "/data", Inside: "/data"}, {Host: dir + "/other", Inside: "/data/sub"}, {Host: dir + "/list", Inside: "/bin/sh"}},
		Writable: []spec.Mount{{Host: dir + "/other", Inside: "/srv/other"}}, Tmpfs: []string{"/data/back/none", "/srv/fresh"}}
	v, refused := NewView(policy, "sh", []spec.Mount{{Host: "/tmp/no-such-state", Inside: "/var/lib/state"}}, Inside{}, nobody)
	if len(refused) != 1 || refused[0].Path != "/data/back/none" {
		t.Errorf("refused: %v", refused)
	}
	for _, test := range []struct {
		path, want, host string
		err              error
	}{
		{"/", "/", "", nil},
		{"/bin/../bin/./sh", "/usr/bin/sh", dir + "/list", nil}, // the mount is where the link leads
		{"/usr/lib/x", "/usr/lib/x", dir + "/root/usr/lib/x", nil},
		{"/up/passwd", "/etc/passwd", dir + "/root/etc/passwd", nil}, // and never above the root
		{"/../../etc/passwd", "/etc/passwd", dir + "/root/etc/passwd", nil},
		{"/away", "/data/file", dir + "/data/file", nil},
		{"/data/sub", "/data/sub", dir + "/other", nil},
		{"/data/sub/deep", "", "", unix.ENOENT}, // covered
		{"/data/sub/../file", "/data/file", dir + "/data/file", nil},
		{"/data/back", "/usr/lib/x", dir + "/root/usr/lib/x", nil},
		{"/data/file/below", "", "", unix.ENOTDIR},
		{"/loop", "", "", unix.ELOOP},
		{"/none", "", "", unix.ENOENT},
		{"/var/lost", "", "", unix.ENOENT}, // /var is fresh
		{"/var/tmp", "/var/tmp", "", nil},
		{"/var/run", "/run", "", nil},
		{"/tmp/x", "", "", unix.ENOENT},
		{"/srv", "/srv", "", nil},
		{"/srv/other/file", "/srv/other/file", dir + "/other/file", nil},
		{"/srv/fresh", "/srv/fresh", "", nil},
		{"/var/lib/state", "/var/lib/state", "", nil}, // it will be made
		{"/var/lib/state/x", "", "", unix.ENOENT},
		{"/proc", "/proc", "", nil},
		{"/proc/self/exe", "", "", errUnknown},
		{"/dev/fd/3", "", "", errUnknown},
		{"/dev/null", "/dev/null", "/dev/null", nil},
		{"/dev/sda", "", "", unix.ENOENT},
	} {
		spot, err := v.Find(test.path)
		if !errors.Is(err, test.err) || err == nil && (spot.Path != test.want || spot.Host != test.host) {
			t.Errorf("%s: %q, on the host %q, %v; want %q, %q, %v", test.path, spot.Path, spot.Host, err, test.want, test.host, test.err)
		}
	}
}

// Who may not search a folder sees nothing in it; of what nobody can tell from outside
// nobody is told that it is so.
func TestViewAllows(t *testing.T) {
	dir := viewFolder(t, "open/file", "closed/file", "group/file")
	for name, mode := range map[string]os.FileMode{"closed": 0o700, "group": 0o750} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	uid, gid := os.Geteuid(), os.Getegid()
	for _, test := range []struct {
		name   string
		viewer Viewer
		keep   []string
		want   string // of open, closed and group: y or n
	}{
		{"a stranger", nobody, nil, "ynn"},
		{"the owner", Viewer{UID: uid, GID: gid}, nil, "yyy"},
		{"one of the group", Viewer{UID: NoID, GID: gid}, nil, "yny"},
		{"another one of it", Viewer{UID: NoID, GID: NoID, Groups: []int{gid}}, nil, "yny"},
		{"a capability", nobody, []string{"CAP_DAC_OVERRIDE"}, "yyy"},
	} {
		policy := spec.Sandbox{ReadOnly: []spec.Mount{{Host: dir, Inside: "/srv"}}, Capabilities: test.keep}
		v, refused := NewView(policy, "sh", nil, Inside{}, test.viewer)
		got := ""
		for _, name := range []string{"open", "closed", "group"} {
			_, err := v.Find("/srv/" + name + "/file")
			got += map[bool]string{true: "y", false: "n"}[err == nil]
			if err != nil && !errors.Is(err, unix.EACCES) {
				t.Errorf("%s: %s: %v", test.name, name, err)
			}
		}
		if got != test.want || len(refused) > 0 {
			t.Errorf("%s: %s, want %s; refused %v", test.name, got, test.want, refused)
		}
	}
}

// The service's own folder on the host is its own whoever has it now: it is given to it.
func TestViewOwn(t *testing.T) {
	dir := viewFolder(t, "state/deep/file")
	if err := os.Chmod(dir+"/state", 0o700); err != nil {
		t.Fatal(err)
	}
	v, refused := NewView(spec.Sandbox{}, "sh", []spec.Mount{{Host: dir + "/state", Inside: "/srv/state"}}, Inside{}, nobody)
	if _, err := v.Find("/srv/state/deep/file"); err != nil || len(refused) > 0 {
		t.Errorf("%v, refused %v", err, refused)
	}
}

// What will be there when the service starts can be mounted, and is not looked into.
func TestViewLater(t *testing.T) {
	dir := viewFolder(t)
	viewer := nobody
	viewer.Later = map[string]bool{dir + "/folder": true, dir + "/file": false}
	policy := spec.Sandbox{ReadOnly: []spec.Mount{{Host: dir + "/folder", Inside: "/srv/folder"}, {Host: dir + "/file", Inside: "/srv/file"}, {Host: dir + "/folder", Inside: "/etc/passwd"}}}
	v, refused := NewView(policy, "sh", nil, Inside{}, viewer)
	if len(refused) != 1 || refused[0].Path != "/etc/passwd" {
		t.Errorf("refused %v", refused)
	}
	if _, err := v.Find("/srv/folder/x"); !errors.Is(err, errUnknown) {
		t.Errorf("what is in it: %v", err)
	}
}

// Nothing is said of what lies in a mount that has been refused, and nothing of a file
// that is locked may be written.
func TestViewRefused(t *testing.T) {
	dir := viewFolder(t, "file")
	v, refused := NewView(spec.Sandbox{ReadOnly: []spec.Mount{{Host: dir + "/none", Inside: "/srv/none"}, {Host: dir, Inside: "/srv/dir"}}}, "sh", nil, Inside{}, nobody)
	if len(refused) != 1 || refused[0].Step != "open" || refused[0].Errno != unix.ENOENT {
		t.Errorf("refused %v", refused)
	}
	if _, err := v.Find("/srv/none/file"); !errors.Is(err, errUnknown) {
		t.Errorf("what is in it: %v", err)
	}
	spot, err := v.Find("/srv/dir/file")
	if err != nil || !v.Allows(spot, 4) || v.Allows(spot, 2) {
		t.Errorf("a file that can be read only: %v, %v", spot, err)
	}
}
