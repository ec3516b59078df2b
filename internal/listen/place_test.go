package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/ktest"
	"activator/internal/spec"
)

// theirs makes a folder of a service's, theirs, with a folder run in it, and a folder of
// somebody else's.
func theirs(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"/theirs/run", "/stranger"} {
		if err := os.MkdirAll(dir+name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(dir+"/stranger", dir+"/theirs/link"); err != nil {
		t.Fatal(err)
	}
	fd.ClaimFolders(dir + "/theirs")
	return dir
}

// eachWayToBind runs a test with Landlock, if there is one, and as where there is none.
func eachWayToBind(t *testing.T, test func(t *testing.T, landlock bool)) {
	before := restrictToFolder
	t.Run("landlock", func(t *testing.T) {
		if err := callOnThread(func() error { return restrictToFolder(unix.AT_FDCWD) }); errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
			t.Skip(err) // not switched on, which is no matter of this machine's version
		}
		test(t, true)
	})
	t.Run("without", func(t *testing.T) {
		restrictToFolder = func(int) error { return unix.EOPNOTSUPP }
		defer func() { restrictToFolder = before }()
		test(t, false)
	})
}

func TestBindWhereOthersMayWrite(t *testing.T) {
	eachWayToBind(t, func(t *testing.T, landlock bool) {
		dir := theirs(t)
		// In theirs itself the path does, below it somebody can bend it.
		for _, path := range []string{dir + "/theirs/s", dir + "/theirs/run/s", dir + "/theirs/run/new/" + strings.Repeat("n", 107-len(dir)-len("/theirs/run/new/"))} {
			s := open(t, "unix://"+path, func(o *spec.Options) { o.SocketMode, o.SocketModeSet = 0o640, true })
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != 0o640 {
				t.Errorf("%s: %v, %v", path, info, err)
			}
			want := path
			if !landlock && filepath.Dir(path) != dir+"/theirs" {
				want = filepath.Base(path)
			}
			_ = control(s.file, func(fd int) error {
				name, err := unix.Getsockname(fd)
				if unix, ok := name.(*unix.SockaddrUnix); err != nil || !ok || unix.Name != want {
					t.Errorf("%s: its name is %v, %v", path, name, err)
				}
				return nil
			})
			c, err := net.Dial("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			c.Close()
			if what, err := s.Mend(); what != "" || err != nil {
				t.Errorf("%s: %q, %v", path, what, err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if what, err := s.MendNode(); !strings.Contains(what, "linked back") || err != nil {
				t.Errorf("%s: %q, %v", path, what, err)
			}
			s.Close()
			if names := entries(t, filepath.Dir(path)); names != "" && names != "link run" {
				t.Errorf("left: %s", names)
			}
		}
		// The rest of the process is not confined.
		mustOpen(t, "unix://"+dir+"/stranger/other").Close()
	})
}

// Every step of a socket's life, with a folder swapped for a link all the while: nothing
// is made, changed or removed in the stranger's.
func TestFolderSwappedMeanwhile(t *testing.T) {
	eachWayToBind(t, func(t *testing.T, _ bool) {
		dir := theirs(t)
		dead(t, dir+"/stranger/s")
		if err := errors.Join(os.Chmod(dir+"/stranger/s", 0o600), os.WriteFile(dir+"/stranger/fifo", nil, 0o600), os.Mkdir(dir+"/stranger/new", 0o755)); err != nil {
			t.Fatal(err)
		}
		before := listing(t, dir+"/stranger")
		stop := ktest.Exchange(t, dir+"/theirs/run", dir+"/theirs/link")
		opened, healed := 0, 0
		for range 150 {
			for _, address := range []string{"unix://" + dir + "/theirs/run/s", "fifo://" + dir + "/theirs/run/fifo", "unix://" + dir + "/theirs/run/t", "unix://" + dir + "/theirs/run/new/s"} {
				s, err := openOne(socketSpec(t, address, func(o *spec.Options) { o.Symlinks = []string{dir + "/theirs/run/l" + filepath.Base(address)} }), Means{})
				if err != nil {
					continue
				}
				opened++
				if _, err := s.MendNode(); err == nil {
					healed++
				}
				s.Close()
			}
		}
		stop()
		t.Logf("opened %d times, healed %d times", opened, healed)
		if after := listing(t, dir+"/stranger"); after != before {
			t.Errorf("the stranger's folder was\n%sand is\n%s", before, after)
		}
		if opened == 0 {
			t.Error("never opened")
		}
	})
}

// dead leaves a socket's node that nobody has.
func dead(t *testing.T, path string) {
	t.Helper()
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = errors.Join(unix.Bind(s, &unix.SockaddrUnix{Name: path}), unix.Close(s))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// listing is all that there is to see of a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range strings.Fields(entries(t, dir)) {
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+name, &st); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, name, st.Ino, st.Mode, st.Uid, st.Nlink, st.Ctim.Nano())
	}
	return b.String()
}

// A node that was put in the place of the one that was just born is left alone: a second name of another
// one, and another one of ours, which has one name and lives.
func TestNodeSwappedAtBirth(t *testing.T) {
	for name, swap := range map[string]func(victim, node string) error{"link": os.Link, "rename": os.Rename} {
		dir := theirs(t)
		victim, node := dir+"/theirs/run/victim", dir+"/theirs/run/s"
		mustOpen(t, "unix://"+victim)
		for _, path := range []string{victim, dir + "/theirs/run/.victim.activator"} {
			if err := os.Chmod(path, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(dir + "/theirs/run/.victim.activator"); err != nil {
			t.Fatal(err)
		}
		socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(socket)
		at, err := openPlace(node)
		if err != nil {
			t.Fatal(err)
		}
		defer at.Close()
		if err := unix.Bind(socket, &unix.SockaddrUnix{Name: node}); err != nil {
			t.Fatal(err)
		}
		if _, err := at.setUpNode(socket, 0o640, owner{-1, -1}); err != nil {
			t.Errorf("%s: the node itself: %v", name, err)
		}
		if err := errors.Join(os.Remove(node), swap(victim, node)); err != nil {
			t.Fatal(err)
		}
		var occupied *OccupiedError
		if _, err := at.setUpNode(socket, 0o666, owner{-1, -1}); !errors.As(err, &occupied) {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(node); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// What stands behind a link says so, with the path, the link and the cure.
func TestLinkInTheWay(t *testing.T) {
	dir := theirs(t)
	for _, address := range []string{"unix://" + dir + "/theirs/link/s", "fifo://" + dir + "/theirs/link/f", "unixgram://" + dir + "/theirs/link/deeper/g"} {
		_, err := openOne(socketSpec(t, address), Means{})
		if err == nil || !strings.Contains(err.Error(), dir+"/theirs/link is a symbolic link below "+dir+"/theirs, which a service may write, and not followed; name") {
			t.Errorf("%s: %v", address, err)
		}
	}
	if names := entries(t, dir+"/stranger"); names != "" {
		t.Errorf("made: %s", names)
	}
}

// Somebody who may only read a folder holds its lock: he delays all that is bound there once,
// is told of, and delays nothing of other folders after that.
func TestLockHeldByAnother(t *testing.T) {
	defer lockPausedUntil.Store(lockPausedUntil.Load())
	lockPausedUntil.Store(nil)
	dirs := []string{t.TempDir(), t.TempDir()}
	for _, dir := range dirs {
		folder, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(folder)
		if err := unix.Flock(folder, unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
	}
	var specs []spec.Socket
	for i := range 3 {
		for _, dir := range dirs {
			specs = append(specs, socketSpec(t, fmt.Sprintf("unix://%s/%d", dir, i)))
		}
	}
	var told []string
	began := time.Now()
	sockets, err := OpenAll(t.Context(), specs, Means{Warn: func(text string) { told = append(told, text) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sockets {
		s.Close()
	}
	if took := time.Since(began); took < lockTimeout || took >= 2*lockTimeout {
		t.Errorf("%d nodes took %v", len(specs), took)
	}
	if len(told) != 1 || !strings.Contains(told[0], "for the lock of "+dirs[0]+", which another process holds") {
		t.Errorf("told %q", told)
	}
}
