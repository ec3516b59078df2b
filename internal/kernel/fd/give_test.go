package fd

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Users of these tests.
const (
	former  = 61184
	later   = 61200
	another = 61300
)

// giveTo has a folder given away.
func giveTo(t *testing.T, path string, id int) (left int, err error) {
	t.Helper()
	folder, err := OpenFolder(path)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	given, err := folder.GiveTo(id, id)
	return given.Left, err
}

// owners are the users whose files and folders in dir are not root's, by path.
func owners(t *testing.T, dir string) map[string]uint32 {
	t.Helper()
	all := map[string]uint32{}
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		var stat unix.Stat_t
		if err = errors.Join(err, unix.Lstat(path, &stat)); stat.Uid != 0 {
			all[strings.TrimPrefix(path, dir+"/")] = stat.Uid
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func mustBeRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root gives folders to others")
	}
}

// chownAll gives paths in dir to a user.
func chownAll(t *testing.T, dir string, id int, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Lchown(dir+"/"+path, id, id); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGive(t *testing.T) {
	mustBeRoot(t)
	dir := tree(t, "state/a/file", "state/link>$/stranger", "stranger/file")
	if left, err := giveTo(t, dir+"/state", later); left != 0 || err != nil {
		t.Error(left, err)
	}
	want := map[string]uint32{"state": later, "state/a": later, "state/a/file": later, "state/link": later}
	if got := owners(t, dir); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// The owner of a folder moves in what is root's or another user's: that is left, and what is in
// such a folder is not even looked at. So it is with a second name of a file.
func TestGiveNothingOfAnother(t *testing.T) {
	mustBeRoot(t)
	dir := tree(t, "state/own", "state/sub/own", "state/sub/root", "state/theirs/own", "state/roots/own", "state/done", "stranger", "other")
	chownAll(t, dir, former, "state", "state/own", "state/sub", "state/sub/own", "state/theirs/own", "state/roots/own")
	chownAll(t, dir, another, "state/theirs", "other")
	chownAll(t, dir, later, "state/done") // by one that was interrupted
	if err := errors.Join(os.Link(dir+"/stranger", dir+"/state/sub/linked"), os.Rename(dir+"/other", dir+"/state/other")); err != nil {
		t.Fatal(err)
	}
	left, err := giveTo(t, dir+"/state", later)
	if left != 5 || err != nil { // root, linked, other, theirs, roots
		t.Errorf("%d left, %v", left, err)
	}
	want := map[string]uint32{"state": later, "state/own": later, "state/sub": later, "state/sub/own": later, "state/done": later,
		"state/theirs": another, "state/other": another, "state/theirs/own": former, "state/roots/own": former}
	if got := owners(t, dir); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	// The group alone is wrong, as the owner of the folder can have it any time.
	if err := os.Chown(dir+"/state", -1, another); err != nil {
		t.Fatal(err)
	}
	if left, err := giveTo(t, dir+"/state", later); left != 5 || err != nil {
		t.Errorf("the group alone: %d left, %v", left, err)
	}
	if got := owners(t, dir); !maps.Equal(got, want) {
		t.Errorf("the group alone: %v, want %v", got, want)
	}
}

// Somebody puts root's file in the place of his own just when that has been looked at, and takes its
// second name away.
func TestGiveWhatWasLookedAt(t *testing.T) {
	mustBeRoot(t)
	dir := tree(t, "state/file", "stranger")
	chownAll(t, dir, former, "state", "state/file")
	defer func(before func()) { looked = before }(looked)
	looked = func() {
		if err := errors.Join(os.Remove(dir+"/state/file"), os.Rename(dir+"/stranger", dir+"/state/file")); err != nil {
			t.Error(err)
		}
	}
	if left, err := giveTo(t, dir+"/state", later); left != 0 || err != nil {
		t.Error(left, err)
	}
	if got, want := owners(t, dir), map[string]uint32{"state": later}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Where others may write, what is root's may be theirs to move: at the top that is refused, below
// it is left.
func TestGiveNothingThatOthersMayWrite(t *testing.T) {
	mustBeRoot(t)
	for name, mode := range map[string]os.FileMode{"everybody": 0o757, "group": 0o775, "sticky": 0o777 | os.ModeSticky} {
		t.Run(name, func(t *testing.T) {
			dir := tree(t, "state/shared/file", "state/file", "empty/")
			for _, path := range []string{"/state", "/state/shared", "/empty"} {
				if err := errors.Join(os.Chown(dir+path, 0, former), os.Chmod(dir+path, mode)); err != nil {
					t.Fatal(err)
				}
			}
			_, err := giveTo(t, dir+"/state", later)
			if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "others may write it; look at what is in it, and give it to uid 61200 by hand") {
				t.Error(err)
			}
			if got := owners(t, dir); len(got) != 0 {
				t.Errorf("given: %v", got)
			}
			if err := os.Chmod(dir+"/state", 0o755); err != nil {
				t.Fatal(err)
			}
			if left, err := giveTo(t, dir+"/state", later); left != 1 || err != nil {
				t.Errorf("below it: %d left, %v", left, err)
			}
			if _, err := giveTo(t, dir+"/empty", later); err != nil {
				t.Errorf("an empty one: %v", err)
			}
			if got, want := owners(t, dir), map[string]uint32{"state": later, "state/file": later, "empty": later}; !maps.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

// A folder of root's that a service has moved to where another one's would be, out of its own folder
// and out of one of root's.
func TestGiveNoFolderThatWasMoved(t *testing.T) {
	mustBeRoot(t)
	dir := tree(t, "shared/old", "shared/mine/file", "shared/sub/mine/file")
	chownAll(t, dir, former, "shared")
	for _, path := range []string{"/shared/mine", "/shared/sub/mine"} {
		if _, err := giveTo(t, dir+path, later); !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "by hand") {
			t.Errorf("root's folder was given away: %v", err)
		}
		if got := owners(t, dir+"/shared"); len(got) != 1 {
			t.Errorf("given: %v", got)
		}
		if err := os.Remove(dir + path + "/file"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := giveTo(t, dir+"/shared/mine", later); err != nil {
		t.Error(err)
	}
}
