package listen

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// exchange swaps two names, once.
func exchange(t *testing.T, a, b string) {
	t.Helper()
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
		t.Fatal(err)
	}
}

// await heals whenever the watcher tells, until it is as it should be.
func (h *mender) await(t *testing.T, what string, done func(err error) bool) {
	t.Helper()
	for {
		select {
		case <-h.changed:
		case <-time.After(waitTimeout):
			t.Fatalf("%s: no event", what)
		}
		if _, err := h.s.MendNode(); done(err) {
			return
		}
	}
}

func answers(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// A folder on the way was a link for a moment: the node is in its place again as soon as the
// folder is, and is put back from then on. The links that root makes are followed, and so watched.
func TestFolderWasALink(t *testing.T) {
	for _, tt := range []struct {
		name, node string
		followed   bool
	}{
		{"not followed", "sub/s", false},
		{"not followed, above", "sub/deep/er/s", false},
		{"followed", "sub/s", true},
		{"followed, above", "sub/deep/er/s", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			app := filepath.Join(dir, "app")
			for _, folder := range []string{app + "/sub", dir + "/other"} {
				if err := os.MkdirAll(folder, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink("../other", app+"/link"); err != nil {
				t.Fatal(err)
			}
			if !tt.followed {
				fd.ClaimFolders(app)
			}
			node := filepath.Join(app, tt.node)
			h := watchNode(t, start(t), open(t, "unix://"+node))
			in := func(error) bool { return answers(node) }
			for range 3 {
				exchange(t, app+"/sub", app+"/link")
				h.await(t, "it is a link", func(err error) bool { return tt.followed && answers(node) || !tt.followed && err != nil })
				exchange(t, app+"/sub", app+"/link")
				h.await(t, "it is a folder again", func(err error) bool { return err == nil && answers(node) })
				if err := os.Remove(node); err != nil {
					t.Fatal(err)
				}
				h.await(t, "the node was removed", in)
			}
			for range 100 { // faster than the watcher looks
				exchange(t, app+"/sub", app+"/link")
				exchange(t, app+"/sub", app+"/link")
			}
			h.await(t, "after many exchanges", in)
			if err := os.Remove(node); err != nil {
				t.Fatal(err)
			}
			h.await(t, "the node was removed at last", in)
		})
	}
}

// The link of root's on the way leads elsewhere: the node is made there.
func TestLinkOnTheWayChanges(t *testing.T) {
	dir := t.TempDir()
	for _, folder := range []string{"/v1/in", "/v2/in"} {
		if err := os.MkdirAll(dir+folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	point := func(to string) {
		t.Helper()
		if err := os.Symlink(to, dir+"/new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/new", dir+"/current"); err != nil {
			t.Fatal(err)
		}
	}
	point("v1")
	h := watchNode(t, start(t), open(t, "unix://"+dir+"/current/in/s"))
	point("v2")
	h.await(t, "the link leads elsewhere", func(error) bool { return answers(dir + "/v2/in/s") })
	if err := os.Rename(dir+"/v2", dir+"/v3"); err != nil {
		t.Fatal(err)
	}
	point("v3")
	h.await(t, "the folder moved", func(error) bool { return answers(dir + "/v3/in/s") })
}
