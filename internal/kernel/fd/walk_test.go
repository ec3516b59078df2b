package fd

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a folder with what is named in it: "a/" a folder, "a" a file with its
// own name in it, "a>b" a link to b.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		path, target, link := strings.Cut(name, ">")
		at := filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(at), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(strings.ReplaceAll(target, "$", dir), at)
		case strings.HasSuffix(path, "/"):
			err = os.MkdirAll(at, 0o755)
		default:
			err = os.WriteFile(at, []byte(path), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read opens a file by a walk; "" and an error if it may not be.
func read(path string) (string, error) {
	place, err := WalkTo(path)
	if err != nil {
		return "", err
	}
	defer place.Close()
	fd, err := place.Open(unix.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	text := make([]byte, 100)
	n, err := unix.Read(fd, text)
	return string(text[:max(n, 0)]), err
}

func TestLinksOfOursAreFollowed(t *testing.T) {
	dir := tree(t, "a/b/file", "a/up>../a", "rel>a", "abs>$/a/b", "last>a/b/file", "chain>rel/b", "loop>loop", "dangling>a/none", "deep>./a/../a/./b/..//b")
	for _, path := range []string{"a/b/file", "rel/b/file", "abs/file", "last", "chain/file", "a/up/up/b/file", "deep/file"} {
		if text, err := read(dir + "/" + path); text != "a/b/file" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
		place, err := WalkTo(dir + "/" + path)
		if err != nil || place.Path() != dir+"/a/b/file" || place.Foreign() || !place.Steady() {
			t.Errorf("%s: %+v, %v", path, place, err)
		}
		place.Close()
	}
	for path, want := range map[string]error{"loop": unix.ELOOP, "dangling": unix.ENOENT, "none/x": unix.ENOENT, "a/b/file/x": unix.ENOTDIR} {
		if _, err := read(dir + "/" + path); !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := WalkTo("relative"); !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}

// Whose folder it is that a link stands in, or stands below, by each way in which somebody
// else may write it.
func TestLinksOfOthersAreNot(t *testing.T) {
	for name, others := range map[string]func(dir string) error{
		"everybody":       func(dir string) error { return os.Chmod(dir, 0o777) },
		"sticky":          func(dir string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) },
		"group":           func(dir string) error { return errors.Join(giveGroup(dir), os.Chmod(dir, 0o775)) },
		"claimed":         func(dir string) error { ClaimFolders(dir); return nil },
		"claimed by link": func(dir string) error { ClaimFolders(filepath.Dir(dir) + "/link"); return nil },
		"user":            func(dir string) error { return os.Chown(dir, 61184, 61184) },
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 && (name == "user" || name == "group") {
				t.Skip("only root gives folders to others")
			}
			dir := tree(t, "theirs/sub/file", "theirs/link>$/secret", "theirs/sub/link>../../secret", "theirs/folder>$", "secret", "link>theirs", "through>theirs/sub", "out>theirs/../secret")
			if err := others(dir + "/theirs"); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"/theirs/sub/file", "/link/sub/file", "/through/file"} {
				if text, err := read(dir + path); text != "theirs/sub/file" {
					t.Errorf("%s: %q, %v", path, text, err)
				}
			}
			refused := []string{"/theirs/link", "/theirs/folder/secret", "/link/link", "/out"}
			if name != "sticky" { // what is ours in /tmp is ours
				refused = append(refused, "/theirs/sub/link", "/through/link")
			}
			for _, path := range refused {
				text, err := read(dir + path)
				var link *LinkError
				if !errors.As(err, &link) || !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), dir+"/theirs") {
					t.Errorf("%s: %q, %v", path, text, err)
				}
			}
		})
	}
}

func giveGroup(dir string) error { return os.Chown(dir, -1, 61184) }

// A folder is known by what it is, not by its name, and by its name before it is there.
func TestClaimsAreNotEvaded(t *testing.T) {
	dir := tree(t, "a/link>$/secret", "secret", "below/")
	ClaimFolders(dir+"/a", dir+"/later", dir+"/below/later")
	if err := os.Rename(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"later", "below/later"} {
		folder, err := MakeFolder(dir+"/"+name, 0o755)
		if err != nil || !folder.Foreign() || !folder.Steady() {
			t.Errorf("%s: %+v, %v", name, folder, err)
		}
		if ClaimedAs(folder.ID()) != folder.Path() {
			t.Errorf("%s: claimed as %q", name, ClaimedAs(folder.ID()))
		}
		folder.Close()
		if err := os.Symlink(dir+"/secret", dir+"/"+name+"/link"); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/b/link", "/later/link", "/below/later/link"} {
		if text, err := read(dir + path); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}

// The kernel's own links are followed where they are ours.
func TestLinksOfProc(t *testing.T) {
	dir := tree(t, "file", "exe>/proc/self/exe")
	for _, path := range []string{"/proc/self/exe", dir + "/exe"} {
		place, err := WalkTo(path)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := place.Open(unix.O_RDONLY, 0)
		if err != nil || !place.Magic() {
			t.Errorf("%s: %v, %v", path, place.Magic(), err)
		}
		unix.Close(fd)
		place.Close()
	}
	// A folder behind one is nobody knows whose.
	t.Chdir(dir)
	if folder, err := OpenFolder("/proc/self/cwd"); err != nil || !folder.Foreign() || folder.Steady() {
		t.Errorf("%+v, %v", folder, err)
	} else {
		folder.Close()
	}
}

// In a sticky folder what is ours stays ours: /tmp.
func TestStickyFolder(t *testing.T) {
	dir := tree(t, "tmp/ours/link>file", "tmp/ours/file", "tmp/theirs/file", "tmp/theirs/link>file")
	if err := os.Chmod(dir+"/tmp", 0o777|fs.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if text, err := read(dir + "/tmp/ours/link"); err != nil || text != "tmp/ours/file" {
		t.Errorf("%q, %v", text, err)
	}
	if os.Geteuid() != 0 {
		return
	}
	if err := os.Chown(dir+"/tmp/theirs", 61184, 61184); err != nil {
		t.Fatal(err)
	}
	if _, err := read(dir + "/tmp/theirs/link"); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
	// Whose sticky folder it is may rename what is in it.
	if err := os.Chown(dir+"/tmp", 61184, 61184); err != nil {
		t.Fatal(err)
	}
	if _, err := read(dir + "/tmp/ours/link"); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
	}
}

func TestMakeParents(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := tree(t, "theirs/link>$/secret", "secret/")
	ClaimFolders(dir + "/theirs")
	for _, path := range []string{"/a/b/socket", "/theirs/c/socket"} {
		place, err := MakeParents(dir+path, 0o751)
		if err != nil {
			t.Fatal(err)
		}
		place.Close()
		if info, err := os.Stat(filepath.Dir(dir + path)); err != nil || info.Mode().Perm() != 0o751 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if place, err := MakeParents(dir+"/theirs/link/made/socket", 0o755); !errors.Is(err, unix.ELOOP) {
		t.Error(err)
		place.Close()
	}
	if _, err := os.Stat(dir + "/secret/made"); err == nil {
		t.Error("made behind a link")
	}
}

// A group that is nobody but us is no somebody else, unless a list lets others in.
func TestPrivateGroup(t *testing.T) {
	dir := tree(t, "shared/link>file", "shared/file")
	if err := os.Chmod(dir+"/shared", 0o775); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 && !alone() {
		t.Skip("our group is not ours alone")
	}
	if text, err := read(dir + "/shared/link"); err != nil || text != "shared/file" {
		t.Errorf("%q, %v", text, err)
	}
	list := binary.LittleEndian.AppendUint32(nil, 2) // acl(5) as linux/posix_acl_xattr.h has it
	for _, entry := range [][3]uint32{{0x01, 7, ^uint32(0)}, {0x02, 7, 12345}, {0x04, 5, ^uint32(0)}, {0x10, 7, ^uint32(0)}, {0x20, 5, ^uint32(0)}} {
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[0]))
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[1]))
		list = binary.LittleEndian.AppendUint32(list, entry[2])
	}
	if err := unix.Setxattr(dir+"/shared", "system.posix_acl_access", list, 0); err != nil {
		t.Skipf("no access control lists: %v", err)
	}
	if text, err := read(dir + "/shared/link"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("%q, %v", text, err)
	}
}
