package process

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

// away puts something else in the place of path.
func away(path string) error {
	if err := os.Rename(path, path+".old"); err != nil {
		return err
	}
	return os.Mkdir(path, 0o755)
}

func TestFresh(t *testing.T) {
	for _, test := range []struct {
		name  string
		does  func(folder string) error
		fresh bool
	}{
		{"nothing", func(string) error { return nil }, true},
		{"the program is replaced", func(f string) error {
			return errors.Join(os.WriteFile(f+"/new", nil, 0o755), os.Rename(f+"/new", f+"/program"))
		}, false},
		{"the program is removed", func(f string) error { return os.Remove(f + "/program") }, false},
		{"the program is written to", func(f string) error { return os.WriteFile(f+"/program", []byte("new"), 0) }, true},
		{"a file in a folder is replaced", func(f string) error { return os.WriteFile(f+"/read/file", nil, 0o644) }, true},
		{"a folder is replaced", func(f string) error { return away(f + "/read") }, false},
		{"a writable folder is replaced", func(f string) error { return away(f + "/write") }, false},
		{"the state directory is removed", func(f string) error { return os.RemoveAll(f + "/state/own") }, false},
		{"a symbolic link leads elsewhere", func(f string) error {
			return errors.Join(os.Remove(f+"/link"), os.Symlink(f+"/write", f+"/link"))
		}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, folder := waiting(t)
			if !p.IsFresh() {
				t.Fatal("it is stale from the beginning")
			}
			if err := test.does(folder); err != nil {
				t.Fatal(err)
			}
			if got := p.IsFresh(); got != test.fresh {
				t.Errorf("IsFresh is %v", got)
			}
		})
	}
}

// waiting prepares a process with one of everything in a folder.
func waiting(t *testing.T) (*service, string) {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"read", "write", "state"} {
		if err := os.Mkdir(filepath.Join(folder, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(folder+"/program", nil, 0o755), os.Symlink(folder+"/read", folder+"/link")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", folder+"/state")
	process := spec.Process{Name: "fresh", Argv: []string{folder + "/program"}}
	if os.Geteuid() == 0 {
		// Root's state directories are in /var/lib.
		process.Sandbox.Writable = append(process.Sandbox.Writable, spec.Mount{Host: folder + "/state/own", Inside: "/own"})
		if err := os.Mkdir(folder+"/state/own", 0o755); err != nil {
			t.Fatal(err)
		}
	} else {
		process.Directories = []spec.Directory{{Kind: "state", Name: "own"}}
	}
	process.Sandbox.ReadOnly = []spec.Mount{{Host: folder + "/read", Inside: "/read"}, {Host: folder + "/link", Inside: "/link"}}
	process.Sandbox.Writable = append(process.Sandbox.Writable, spec.Mount{Host: folder + "/write", Inside: "/write"})
	p, err := prepareFor(t, process, Inputs{Client: ClientAbsent})
	if err != nil {
		t.Fatal(err)
	}
	return p, folder
}

// What is mounted below a folder that the sandbox has came along, or did not.
func TestFreshMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts on the host")
	}
	p, folder := waiting(t)
	elsewhere := t.TempDir()
	change := func(want bool, err error) {
		t.Helper()
		if err != nil {
			ktest.Skip(t, "mount: %v", err)
		}
		if got := p.IsFresh(); got != want {
			t.Errorf("IsFresh is %v", got)
		}
	}
	inside := filepath.Join(folder, "read", "with a blank")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	change(true, unix.Mount("tmpfs", elsewhere, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(elsewhere, unix.MNT_DETACH) })
	change(false, unix.Mount("tmpfs", inside, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(inside, unix.MNT_DETACH) })
	change(true, unix.Unmount(inside, 0))
	change(false, unix.Mount("tmpfs", filepath.Join(folder, "write"), "tmpfs", 0, ""))
	change(true, unix.Unmount(filepath.Join(folder, "write"), 0))
}

// The table is read again only when something has been mounted.
func TestMountTableRemembers(t *testing.T) {
	var table mountTable
	defer table.closeTable()
	first := table.currentMounts()
	if !slices.ContainsFunc(first, func(m mount) bool { return m.point == "/" }) {
		t.Fatalf("no root in %v", first)
	}
	if again := table.currentMounts(); &again[0] != &first[0] {
		t.Error("read again, and nothing has changed")
	}
}

// A child that waits ends by itself when it is told to, or is killed.
func TestStartedWithoutRelease(t *testing.T) {
	p, err := prepare(t, spec.Process{Name: "waits", Argv: []string{"/bin/true"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.AwaitExec(t.Context()); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("started: %v", err)
	}
	if err := p.Release(); err != nil {
		t.Errorf("it is AwaitExec that says so: %v", err)
	}
}

func TestReadMounts(t *testing.T) {
	const text = `22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
49 22 0:44 / /a\040b\134c rw - tmpfs tmpfs rw
not a line
`
	want := []mount{{22, "/"}, {49, `/a b\c`}}
	if got := readMounts(strings.NewReader(text)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, test := range []struct {
		path, folder string
		want         bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/", "/a", false}, {"/a", "/", true}} {
		if spec.IsBelow(test.path, test.folder) != test.want {
			t.Errorf("%s below %s is not %v", test.path, test.folder, test.want)
		}
	}
}

func FuzzReadMounts(f *testing.F) {
	f.Add([]byte("22 1 254:0 / /a\\040b rw - ext4 /dev/root rw\n"))
	f.Add([]byte("1 2 3 4 \\"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, m := range readMounts(bytes.NewReader(text)) {
			if len(m.point) > len(text) {
				t.Errorf("%q is longer than all of it", m.point)
			}
		}
	})
}
