package container

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"activator/internal/kernel/fd"
	"activator/internal/process"
	"activator/internal/sandbox"
	"activator/internal/spec"
	"activator/internal/usernotif"
)

// folders makes folders and files that anybody may read.
func folders(t *testing.T, files ...string) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sources")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	err = os.Chmod(dir, 0o755)
	for _, path := range files {
		folder := dir + path[:strings.LastIndex(path, "/")]
		if folder != dir {
			err = errors.Join(err, os.MkdirAll(folder, 0o755), os.Chmod(folder, 0o777))
		}
		err = errors.Join(err, os.WriteFile(dir+path, []byte(path+"\n"), 0o666), os.Chmod(dir+path, 0o666))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestMounts(t *testing.T) {
	dir := folders(t, "/ro/file", "/rw/file", "/one")
	if err := os.Symlink("ro", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	got := output(t, described(t, "exec 2>&1; busybox cat /a/file /b/file /c/one; echo x >/a/y || echo read-only; echo written >/b/file", func(s *spec.Service) {
		s.Sandbox.ReadOnly, s.Sandbox.Writable = []spec.Mount{{Host: dir + "/link", Inside: "/a"}, {Host: dir + "/one", Inside: "/c/one"}}, []spec.Mount{{Host: dir + "/rw", Inside: "/b"}}
	}), nil)
	if !strings.HasPrefix(got, "/ro/file\n/rw/file\n/one\n") || !strings.HasSuffix(got, "read-only\n") {
		t.Errorf("got %s", got)
	}
	if text, err := os.ReadFile(dir + "/rw/file"); err != nil || string(text) != "written\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// A service that may write what is around a container's folder makes a link of that:
// before it is planned, and after.
func TestMountsBelowAnothersFolder(t *testing.T) {
	dir := folders(t, "/theirs/x/file", "/stranger/key")
	fd.ClaimFolders(dir + "/theirs")
	mount := func(s *spec.Service) { s.Sandbox.Writable = []spec.Mount{{Host: dir + "/theirs/x", Inside: "/data"}} }
	spec := described(t, "busybox cat /data/file /data/key", mount)
	if got := output(t, described(t, "busybox cat /data/file", mount), nil); got != "/theirs/x/file\n" {
		t.Errorf("got %s", got)
	}
	if err := errors.Join(os.Rename(dir+"/theirs/x", dir+"/theirs/aside"), os.Symlink(dir+"/stranger", dir+"/theirs/x")); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t, spec, nil); !errors.Is(err, syscall.ELOOP) || !strings.Contains(err.Error(), dir+"/theirs/x is a symbolic link") {
		t.Error(err)
	}
	noneLeft(t)
}

// Of what was walked to no link is followed later.
func TestMountsAfterTheWalk(t *testing.T) {
	dir := folders(t, "/x/file", "/stranger/key")
	s := described(t, "busybox cat /data/key", func(s *spec.Service) { s.Sandbox.Writable = []spec.Mount{{Host: dir + "/x", Inside: "/data"}} })
	late := &lateLink{Engine: &Engine{of: service{s}, left: true}, change: func() error {
		return errors.Join(os.Rename(dir+"/x", dir+"/aside"), os.Symlink(dir+"/stranger", dir+"/x"))
	}}
	_, err := start(t, s, func(_ *spec.Process, given *process.Inputs, _ *usernotif.Policy) { given.Engine = late })
	if !errors.Is(err, syscall.ELOOP) || !strings.Contains(err.Error(), "open "+dir+"/x: too many levels of symbolic links") {
		t.Errorf("GOT OUT: %v", err)
	}
	noneLeft(t)
}

// lateLink makes a link once the command line is there.
type lateLink struct {
	*Engine
	change func() error
}

func (l *lateLink) Command(notify string, names []string) ([]string, sandbox.Engine, error) {
	argv, behind, err := l.Engine.Command(notify, names)
	return argv, behind, errors.Join(err, l.change())
}
