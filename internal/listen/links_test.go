package listen

import (
	"os"
	"strings"
	"testing"

	"activator/internal/spec"
)

// TestMendNodeLinks takes a symlink away in every way: it is put back as its node is. What stands in its place
// is not removed, and once it goes the link is back.
func TestMendNodeLinks(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(dir string) error // the link is dir/links/l
		says string
	}{
		{"deleted", func(dir string) error { return os.Remove(dir + "/links/l") }, "/links/l was deleted; linked again"},
		{"moved away", func(dir string) error { return os.Rename(dir+"/links/l", dir+"/elsewhere") }, "linked again"},
		{"its folder deleted", func(dir string) error { return os.RemoveAll(dir + "/links") }, "linked again"},
		{"its folder renamed", func(dir string) error { return os.Rename(dir+"/links", dir+"/away") }, "linked again"},
		{"with the node", func(dir string) error {
			_ = os.Remove(dir + "/links/l")
			return os.Remove(dir + "/in/s")
		}, "linked again"},
		{"replaced by a link to nowhere", func(dir string) error { return replaceBy(dir, "/nowhere") }, "linked again"},
		{"replaced by a link to somewhere", func(dir string) error { return replaceBy(dir, "/etc/passwd") }, "a symbolic link to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			w := start(t)
			link := dir + "/links/l"
			s := open(t, "unix://"+dir+"/in/s", func(o *spec.Options) { o.Symlinks = []string{link} })
			h := watchNode(t, w, s)
			if err := tt.do(dir); err != nil {
				t.Fatal(err)
			}
			h.mend(t, tt.says)
			if strings.Contains(tt.says, "a symbolic link") {
				if err := os.Remove(link); err != nil {
					t.Fatal(err)
				}
				h.mend(t, "linked again")
			}
			if target, err := os.Readlink(link); err != nil || target != dir+"/in/s" {
				t.Errorf("it points at %q, %v", target, err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(link); !os.IsNotExist(err) {
				t.Errorf("it is left: %v", err)
			}
		})
	}
}

// replaceBy puts another symlink in the place of ours.
func replaceBy(dir, target string) error {
	if err := os.Symlink(target, dir+"/other"); err != nil {
		return err
	}
	return os.Rename(dir+"/other", dir+"/links/l")
}
