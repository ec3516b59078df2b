package fd

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// A service swaps a folder for a link while we walk through it: a thousand times the
// file is ours, or refused, and never the secret.
func TestSwappedWhileWalked(t *testing.T) {
	dir := tree(t, "theirs/sub/file", "theirs/evil>$/secret", "secret/file", "secret/sub/file")
	ClaimFolders(dir + "/theirs")
	stop := ktest.Exchange(t, dir+"/theirs/sub", dir+"/theirs/evil")
	defer stop()
	opened, refused := 0, 0
	for range 2000 {
		text, err := read(dir + "/theirs/sub/file")
		switch {
		case err != nil:
			refused++
		case text == "theirs/sub/file":
			opened++
		default:
			t.Fatalf("read %q", text)
		}
		// By a path without links it is the same: a child opens it so.
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
		if fd, err := unix.Openat2(unix.AT_FDCWD, dir+"/theirs/sub/file", &how); err == nil {
			real, err := os.Readlink(LinkOf(fd))
			unix.Close(fd)
			if err != nil || real == dir+"/secret/file" {
				t.Fatalf("%s, %v", real, err)
			}
		}
	}
	t.Logf("opened %d times, refused %d times", opened, refused)
}

// What a runtime directory is removed through is swapped for a stranger's folder.
func TestSwappedWhileRemoved(t *testing.T) {
	for range 100 {
		dir := tree(t, "theirs/sub/run/x/y/file", "theirs/evil>$/stranger", "stranger/run/x/y/file", "stranger/keep")
		ClaimFolders(dir + "/theirs")
		folder, err := OpenFolder(dir + "/theirs/sub/run")
		if err != nil {
			t.Fatal(err)
		}
		id := folder.ID()
		folder.Close()
		stop := ktest.Exchange(t, dir+"/theirs/sub", dir+"/theirs/evil")
		if place, err := WalkTo(dir + "/theirs/sub/run"); err == nil {
			_ = place.RemoveFolder(place.Name, id)
			place.Close()
		}
		stop()
		for _, path := range []string{"/stranger/run/x/y/file", "/stranger/keep"} {
			if _, err := os.Stat(dir + path); err != nil {
				t.Fatalf("a stranger's file is gone: %v", err)
			}
		}
	}
}

func TestRemoveFolder(t *testing.T) {
	dir := tree(t, "run/a/b/c", "run/link>$/stranger", "run/a/out>$/stranger", "stranger/file", "other/file")
	parent, err := OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	deep := dir + "/run"
	for range 3 { // path names are short, folders are not
		fd, err := unix.Open(deep, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		for range 250 {
			if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
				t.Fatal(err)
			}
			next, err := unix.Openat(fd, "d", unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(fd)
			fd = next
		}
		if deep, err = os.Readlink(LinkOf(fd)); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
	run, err := OpenFolder(dir + "/run")
	if err != nil {
		t.Fatal(err)
	}
	run.Close()
	if err := parent.RemoveFolder("other", run.ID()); err == nil {
		t.Error("removed another folder than was meant")
	}
	if err := parent.RemoveFolder("run", run.ID()); err != nil {
		t.Error(err)
	}
	for path, there := range map[string]bool{"run": false, "stranger/file": true, "other/file": true} {
		if _, err := os.Stat(dir + "/" + path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
}
