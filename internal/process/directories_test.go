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

// A directory that was somebody's, with what is in it, is not taken without a word.
func TestGivenDirectoryIsTold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives folders to others")
	}
	dir := t.TempDir()
	given := map[string]fd.Given{}
	id := identity{uid: 61200, gid: 61200, change: true}
	if err := errors.Join(os.Mkdir(dir+"/theirs", 0o755), os.WriteFile(dir+"/theirs/file", nil, 0o600), os.Chown(dir+"/theirs/file", 7, 7), os.Chown(dir+"/theirs", 7, 7)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "new", "theirs", "theirs"} {
		_, now, err := makeDirectory(dir, name, id)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		prep := preparation{starter: &Starter{Warn: func(_, text string) { said = append(said, text) }}, id: id}
		prep.tellGiven(dir+"/"+name, now)
		_, again := given[name]
		given[name] = now
		if tells := name == "theirs" && !again; tells != (len(said) == 1 && strings.HasSuffix(said[0], "/theirs from uid 7 to uid 61200, with 1 files and folders in it")) || !tells && len(said) > 0 {
			t.Errorf("%s: %q", name, said)
		}
	}
}
