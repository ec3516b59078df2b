package listen

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// withoutInotify is set for a copy of this program in a user namespace that may
// have no instance of inotify, as where others have used them up.
const withoutInotify = "LISTEN_TEST_WITHOUT_INOTIFY"

// cannot is the exit code of a copy that could not give up its instances.
const cannot = 77

func allowInotify(instances string) error {
	return os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(instances), 0)
}

func useUpInotify() {
	err := allowInotify("0")
	if f, made := newInotify(); err == nil && !errors.Is(made, unix.EMFILE) {
		_ = f.Close()
		err = fmt.Errorf("user.max_inotify_instances is 0, and there is one: %v", made)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(cannot)
	}
}

// TestWithoutInotify runs the tests of nodes, and those below that want it so, where
// there is no inotify to be had.
func TestWithoutInotify(t *testing.T) {
	if os.Getenv(withoutInotify) != "" {
		t.Skip("this is the copy")
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.timeout=3m", "-test.run=^(TestMendNode|TestReserveMissing|TestNoInotify)")
	cmd.Env = append(os.Environ(), withoutInotify+"=yes")
	self := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: self(os.Getuid()), GidMappings: self(os.Getgid())}
	out, err := cmd.CombinedOutput()
	var ended *exec.ExitError
	switch {
	case err == nil && bytes.Contains(out, []byte("--- PASS: TestNoInotify")):
	case err != nil && !errors.As(err, &ended), ended != nil && ended.ExitCode() == cannot:
		ktest.Skip(t, "a user namespace without inotify: %v: %s", err, out)
	default:
		t.Errorf("%v: %s", err, out)
	}
}

// clocked reports whether somebody looks at nodes now and then.
func (w *Watcher) clocked() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.nodes.clock != nil
}

// TestNoInotify: a service without nodes misses nothing; of those with, the log says
// once that they are looked at; and once instances are free again, nobody looks.
func TestNoInotify(t *testing.T) {
	if os.Getenv(withoutInotify) == "" {
		t.Skip("for the copy that TestWithoutInotify starts")
	}
	var log bytes.Buffer
	w := start(t)
	w.nodes.log = slog.New(slog.NewTextHandler(&log, nil))
	tcp := open(t, fmt.Sprintf("tcp://127.0.0.1:%d", ktest.Port(t)))
	fired := arm(t, w, tcp)
	answer := client(t, tcp)
	expect(t, "a client of TCP", fired)
	serveOne(t, tcp)
	answer()
	if w.clocked() || log.Len() > 0 {
		t.Errorf("without a node: %s", log.String())
	}
	dir := t.TempDir()
	one, two := open(t, "unix://"+dir+"/one"), open(t, "fifo://"+dir+"/two")
	first, second := watchNode(t, w, one), watchNode(t, w, two)
	if text := log.String(); !w.clocked() || strings.Count(text, "\n") != 1 || !strings.Contains(text, dir+"/one") || !strings.Contains(text, "max_user_instances") {
		t.Errorf("the log says %q", text)
	}
	for range 3 {
		remove(t, one, two)
		first.mend(t, "linked back")
		second.mend(t, "linked back")
	}
	if err := allowInotify("1"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(waitTimeout); w.clocked(); time.Sleep(lookInterval) {
		if time.Now().After(deadline) {
			t.Fatal("an instance is free, and it is not taken")
		}
	}
	remove(t, one, two)
	first.mend(t, "linked back")
	second.mend(t, "linked back")
	if err := allowInotify("0"); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, sockets ...*Socket) {
	t.Helper()
	for _, s := range sockets {
		if err := os.Remove(s.node.path); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFolderNotWatched: who may pass through a folder but not read it cannot watch it.
func TestFolderNotWatched(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read every folder")
	}
	dir := t.TempDir() + "/in"
	w := start(t)
	s := open(t, "unix://"+dir+"/s")
	if err := os.Chmod(dir, 0o300); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(dir, 0o700)
	h := watchNode(t, w, s)
	remove(t, s)
	h.mend(t, "linked back")
	if !w.clocked() {
		t.Error("nobody looks at it")
	}
}

// TestNoNodeNoInotify: nothing is held for what a service does not have.
func TestNoNodeNoInotify(t *testing.T) {
	w := start(t)
	s := open(t, fmt.Sprintf("udp://127.0.0.1:%d", ktest.Port(t)))
	fired := arm(t, w, s)
	if err := w.WatchNode(s, func() {}); err != nil {
		t.Fatal(err)
	}
	answer := client(t, s)
	expect(t, s.String(), fired)
	serveOne(t, s)
	answer()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.nodes.tree.file != nil || w.nodes.clock != nil {
		t.Error("there is an inotify or a timer for a socket without a node")
	}
}
