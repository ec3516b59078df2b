package process

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// A service bends what another one has in its folder: a link, another one's folder, and
// as root a folder of root's, to have it given away.
func TestDirectoryInAnothersFolder(t *testing.T) {
	dir := t.TempDir()
	fd.ClaimFolders(dir+"/a", dir+"/a/sub/b", dir+"/a/sub/c")
	id := identity{uid: os.Geteuid(), gid: os.Getegid(), change: os.Geteuid() == 0}
	if id.change {
		id.uid, id.gid = 61200, 61200
	}
	for _, name := range []string{"a/sub/b", "a/sub/c"} {
		if _, _, err := makeDirectory(dir, name, id); err != nil {
			t.Fatal(err)
		}
	}
	again := func(bend func() error) error {
		t.Helper()
		if err := errors.Join(os.Rename(dir+"/a/sub/b", dir+"/a/sub/aside"), bend()); err != nil {
			t.Fatal(err)
		}
		_, _, err := makeDirectory(dir, "a/sub/b", id)
		if err := errors.Join(os.RemoveAll(dir+"/a/sub/b"), os.Rename(dir+"/a/sub/aside", dir+"/a/sub/b")); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			return nil
		}
		return directoryError(dir+"/a/sub/b", err)
	}
	err := again(func() error { return os.Symlink("/etc", dir+"/a/sub/b") })
	if !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), dir+"/a/sub/b is a symbolic link below "+dir+"/a, which a service may write") {
		t.Errorf("a link: %v", err)
	}
	err = again(func() error { return os.Rename(dir+"/a/sub/c", dir+"/a/sub/b") })
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "it is another service's, "+dir+"/a/sub/c") {
		t.Errorf("another service's folder: %v", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(dir+"/a/sub", 61184, 61184); err != nil {
		t.Fatal(err)
	}
	err = again(func() error {
		return errors.Join(os.Mkdir(dir+"/a/sub/b", 0o700), os.WriteFile(dir+"/a/sub/b/secret", nil, 0o600))
	})
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "give it to uid 61200 by hand") {
		t.Errorf("root's folder: %v", err)
	}
	if err := again(func() error { return os.Mkdir(dir+"/a/sub/b", 0o700) }); err != nil {
		t.Errorf("an empty one: %v", err)
	}
}
