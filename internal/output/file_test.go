package output

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

func TestFileIsAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for range 2 {
		f, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(f, "line\n")
		f.Close()
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "line\nline\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// A FIFO without a reader is an error at once; with one a write to it ends by a
// deadline.
func TestFIFONeverWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openFile(path); !errors.Is(err, syscall.ENXIO) || !strings.HasSuffix(err.Error(), ": nobody reads this FIFO; start its reader first, or print to a file") {
		t.Fatalf("without a reader: %v", err)
	}
	if err := ExamineFile(path); err != nil || !IsFIFO(path) {
		t.Errorf("examined: %v", err)
	}
	if plain := filepath.Join(t.TempDir(), "plain"); IsFIFO(plain) || os.WriteFile(plain, nil, 0o600) != nil || IsFIFO(plain) {
		t.Error("a file is a FIFO")
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	f, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Error(err)
	}
}

// In a folder of the service's, the service could point us at any file.
func TestForeignLinksAreNotFollowed(t *testing.T) {
	own, folder := t.TempDir(), t.TempDir()
	secret := filepath.Join(own, "secret")
	for name, target := range map[string]string{"log": secret, "sub": own} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := openFile(filepath.Join(folder, "log")) // the folder is ours, and so is the link
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if os.Geteuid() != 0 {
		return // only root can give a folder away
	}
	if err := os.Chown(folder, 61184, 61184); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"log", "sub/secret"} {
		if f, err := openFile(filepath.Join(folder, name)); !errors.Is(err, syscall.ELOOP) {
			t.Errorf("%s: %v", name, err)
			f.Close()
		}
	}
	f, err = openFile(filepath.Join(folder, "plain"))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// Where anybody may give any file a second name, the name could be taken away between opening the file and counting
// its names: nothing is opened then in a folder that others may write, or a service.
func TestHardLinksThatNobodyGuards(t *testing.T) {
	defer func(before func() bool) { hardLinksGuarded = before }(hardLinksGuarded)
	hardLinksGuarded = func() bool { return false }
	ours, services, everybodys := t.TempDir(), t.TempDir(), t.TempDir()
	fd.ClaimFolders(services)
	if err := os.Chmod(everybodys, 0o777); err != nil {
		t.Fatal(err)
	}
	f, err := openFile(ours + "/log")
	if err := errors.Join(err, ExamineFile(ours+"/log")); err != nil {
		t.Fatalf("in a folder of ours: %v", err)
	}
	f.Close()
	for _, folder := range []string{services, everybodys} {
		f, opened := openFile(folder + "/log")
		f.Close()
		for _, err := range []error{opened, ExamineFile(folder + "/log")} {
			if !errors.Is(err, syscall.EPERM) || !strings.Contains(err.Error(), "; set that (sysctl fs.protected_hardlinks=1)") {
				t.Errorf("%v", err)
			}
		}
		if _, err := os.Stat(folder + "/log"); err == nil {
			t.Error("the file was made")
		}
	}
}

// A hard link in a folder that others may write is as good as a symbolic one.
func TestForeignHardLinks(t *testing.T) {
	defer func(before func() bool) { hardLinksGuarded = before }(hardLinksGuarded)
	hardLinksGuarded = func() bool { return true }
	own, folder := t.TempDir(), t.TempDir()
	secret, log := filepath.Join(own, "secret"), filepath.Join(folder, "log")
	if err := errors.Join(os.WriteFile(secret, nil, 0o600), os.Link(secret, log)); err != nil {
		t.Fatal(err)
	}
	if f, err := openFile(log); err != nil {
		t.Errorf("in a folder of ours: %v", err)
	} else {
		f.Close()
	}
	fd.ClaimFolders(folder)
	if err := ExamineFile(log); !errors.Is(err, syscall.EMLINK) {
		t.Errorf("examined: %v", err)
	}
	if f, err := openFile(log); !errors.Is(err, syscall.EMLINK) {
		t.Errorf("opened: %v", err)
		f.Close()
	}
	if err := os.Remove(secret); err != nil {
		t.Fatal(err)
	}
	f, err := openFile(log)
	if err := errors.Join(err, ExamineFile(log)); err != nil {
		t.Fatalf("with one name: %v", err)
	}
	f.Close()
}

// What another user has put where everybody may write does not get what the service says. What the folder's owner has does, as a
// service's own file in its folder.
func TestFilesOfOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can give a file away
	}
	const other, owner = 61184, 61185
	for _, mode := range []uint32{0o777, 0o777 | unix.S_ISVTX, 0o755} {
		folder := t.TempDir()
		if err := errors.Join(os.Chown(folder, owner, owner), unix.Chmod(folder, mode)); err != nil {
			t.Fatal(err)
		}
		for _, uid := range []int{other, owner, 0} {
			log := filepath.Join(folder, "log")
			if err := errors.Join(os.WriteFile(log, nil, 0o600), os.Chown(log, uid, uid)); err != nil {
				t.Fatal(err)
			}
			f, opened := openFile(log)
			f.Close()
			for _, err := range []error{opened, ExamineFile(log)} {
				if want := uid == other && mode != 0o755; errors.Is(err, syscall.EACCES) != want || !want && err != nil {
					t.Errorf("a file of %d in a folder of %d, %o: %v", uid, owner, mode, err)
				}
			}
			if err := os.Remove(log); err != nil {
				t.Fatal(err)
			}
		}
	}
}
