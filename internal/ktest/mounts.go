package ktest

import (
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Mounts is what is mounted in a mount namespace, proc_pid_mountinfo(5).
type Mounts struct {
	file  *os.File // keeps it
	below string   // the folder that counts
}

// MountAlone gives what the calling goroutine starts from now on, until the test ends, a
// mount namespace of its own: in the host's others mount, too, at any time. Without the
// right to, nor to mount anything there, it stays in the host's, where what is below a folder
// counts, "" for nothing.
func MountAlone(tb testing.TB, below string) Mounts {
	tb.Helper()
	runtime.LockOSThread() // the thread ends with the goroutine
	m := Mounts{below: below}
	if unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS) == nil {
		m.below = "/"
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			tb.Fatalf("make / private: %v", err)
		}
	}
	var err error
	if m.file, err = os.Open("/proc/thread-self/mountinfo"); err != nil {
		tb.Fatal(err)
	}
	return m
}

// Close lets go of the namespace.
func (m Mounts) Close() { m.file.Close() }

// List lists the mounts, a line each.
func (m Mounts) List(tb testing.TB) []string {
	tb.Helper()
	text, err := io.ReadAll(io.NewSectionReader(m.file, 0, 1<<20))
	if err != nil {
		tb.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(text), "\n"), func(line string) bool {
		fields := strings.Fields(line)
		return len(fields) < 5 || m.below == "" || !strings.HasPrefix(fields[4], m.below)
	})
}
