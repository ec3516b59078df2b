package escape

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

// Paths that another service can write: a service that was taken over, here a shell called
// "taken", has a folder, and bends what others have in that folder: a link to what is not its own
// in the place of a folder. The witness is a file that only the host has, or one that
// disappears from it.

// bent is a host with an activator, and these two services.
type bent struct {
	t      *testing.T
	dir    string // "theirs" in it is the folder of the service that was taken over
	cmd    *exec.Cmd
	log    *os.File
	secret string
}

// newBent makes the host: theirs/ is what the service may write, stranger/ is not.
func newBent(t *testing.T) *bent {
	t.Helper()
	dir, err := os.MkdirTemp("", "bent")
	if err != nil {
		t.Fatal(err)
	}
	b := &bent{t: t, dir: dir, secret: "secret-" + filepath.Base(dir)}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(dir+"/conf", 0o755), os.Mkdir(dir+"/theirs", 0o777), os.Chmod(dir+"/theirs", 0o777),
		os.Mkdir(dir+"/stranger", 0o777), os.Chmod(dir+"/stranger", 0o777), os.WriteFile(dir+"/stranger/key", []byte(b.secret+"\n"), 0o666), os.Chmod(dir+"/stranger/key", 0o666))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// taken is the service that was taken over: a client that connects is its shell.
const taken = `[[socket]]
listen = ["unix://%[1]s/taken"]
[service]
exec = ["/bin/sh"]
handover = "stdio"
accept = true
%[2]s
`

// start configures the service that was taken over and another one, and runs them.
func (b *bent) start(takens, others string) {
	b.t.Helper()
	b.configure(takens, others)
	b.run()
}

// configure writes what they are: each a shell for its client, with what is written for
// them. A "$" is the host's folder.
func (b *bent) configure(takens, others string) {
	b.t.Helper()
	fill := func(text string) string { return strings.ReplaceAll(text, "$", b.dir) }
	other := fmt.Sprintf(strings.Replace(taken, "/taken", "/other", 1), b.dir, fill(others))
	if strings.Contains(others, "exec = ") {
		other = strings.Replace(other, "exec = [\"/bin/sh\"]\n", "", 1)
	}
	if at := strings.Index(fill(others), "listen = "); at >= 0 {
		line, rest, _ := strings.Cut(fill(others)[at:], "\n")
		other = strings.Replace(fmt.Sprintf(strings.Replace(taken, "/taken", "/other", 1), b.dir, rest), `listen = ["unix://`+b.dir+`/other"]`, line, 1)
	}
	err := errors.Join(os.WriteFile(b.dir+"/conf/taken.toml", []byte(fmt.Sprintf(taken, b.dir, fill(takens))), 0o644), os.WriteFile(b.dir+"/conf/other.toml", []byte(other), 0o644))
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bent) run() {
	b.t.Helper()
	log, err := os.Create(b.dir + "/log")
	if err != nil {
		b.t.Fatal(err)
	}
	b.log = log
	b.cmd = exec.Command(program(b.t, "activator"), "--log-level", "debug", "--config", b.dir+"/conf")
	b.cmd.Stderr = log
	b.cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+b.dir+"/state", "XDG_RUNTIME_DIR="+b.dir)
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(b.stop)
	b.await(func() bool { return strings.Contains(b.output(), "activator ready") })
}

func (b *bent) stop() {
	if b.cmd == nil {
		return
	}
	_ = b.cmd.Process.Signal(unix.SIGTERM)
	_ = b.cmd.Wait()
	b.cmd = nil
	b.log.Close()
	if b.t.Failed() {
		b.t.Logf("the log:\n%s", b.output())
	}
}

func (b *bent) output() string {
	text, _ := os.ReadFile(b.dir + "/log")
	return string(text)
}

func (b *bent) await(done func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(waitTimeout); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not in %v:\n%s", waitTimeout, b.output())
		}
	}
}

// shell has a service's shell run commands, and returns what it prints. The client of
// a service that cannot be started is turned away, which prints nothing.
func (b *bent) shell(service, commands string) string {
	b.t.Helper()
	c, err := net.Dial("unix", b.dir+"/"+service)
	if err != nil {
		b.t.Fatalf("%v\n%s", err, b.output())
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(waitTimeout))
	_, _ = io.WriteString(c, strings.ReplaceAll(commands, "$DIR", b.dir)+"\n")
	_ = c.(*net.UnixConn).CloseWrite()
	text, _ := io.ReadAll(c)
	return string(text)
}

// taken runs commands of the intruder, which have to work.
func (b *bent) taken(commands string) {
	b.t.Helper()
	if said := b.shell("taken", "exec 2>&1; set -e\n"+commands+"\necho done"); !strings.HasSuffix(said, "done\n") {
		b.t.Fatalf("the service that was taken over says %q\n%s", said, b.output())
	}
}

// untouched fails if a stranger's file was changed.
func (b *bent) untouched() {
	b.t.Helper()
	if text, err := os.ReadFile(b.dir + "/stranger/key"); err != nil || string(text) != b.secret+"\n" {
		b.t.Errorf("GOT OUT: a stranger's file is %q, %v", text, err)
	}
}

// The other service's hold is short: a client that is not served is turned away soon.
const others = "hold = \"300ms\"\nrestart_delay = \"1ms\"\nrestart_max_delay = \"1ms\"\n"

// TestMountsBelowAnothersFolder: what is mounted for one service is nested in what
// another one may write.
func TestMountsBelowAnothersFolder(t *testing.T) {
	const theirs = "[sandbox]\nwritable = [\"$/theirs\"]\n"
	for name, other := range map[string]struct{ makes, others, reads string }{
		"writable":  {"mkdir $DIR/theirs/x", "[sandbox]\nwritable = [\"$/theirs/x:/data\"]\n", "cat /data/key; echo poison >/data/key"},
		"deeper":    {"mkdir -p $DIR/theirs/x/y; mkdir -p $DIR/theirs/x", "[sandbox]\nwritable = [\"$/theirs/x/y:/data\"]\n", "cat /data/key; echo poison >/data/key"},
		"read_only": {"mkdir $DIR/theirs/x", "[sandbox]\nread_only = [\"$/theirs/x:/data\"]\n", "cat /data/key"},
		"file":      {"touch $DIR/theirs/x", "[sandbox]\nread_only = [\"$/theirs/x:/data\"]\n", "cat /data"},
		"root": {"mkdir $DIR/theirs/x; for n in bin lib lib64; do ln -s usr/$n $DIR/theirs/x; done",
			"[sandbox]\nroot = \"$/theirs/x\"\nread_only = [\"/usr\"]\n", "cat /key"},
		"exec": {"printf '#!/bin/sh\\n' >$DIR/theirs/x; chmod 755 $DIR/theirs/x", "exec = [\"$/theirs/x\"]\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBent(t)
			target := "stranger"
			switch name {
			case "file":
				target = "stranger/key"
			case "exec":
				target = "stranger/run"
				if err := errors.Join(os.WriteFile(b.dir+"/stranger/run", []byte("#!/bin/sh\necho "+b.secret+"\n"), 0o755)); err != nil {
					t.Fatal(err)
				}
			case "root":
				if err := exec.Command("sh", "-c", "cd "+b.dir+"/stranger; for n in bin lib lib64; do ln -s usr/$n .; done").Run(); err != nil {
					t.Fatal(err)
				}
			case "deeper":
				if err := errors.Join(os.Mkdir(b.dir+"/stranger/y", 0o777), os.Chmod(b.dir+"/stranger/y", 0o777), os.Link(b.dir+"/stranger/key", b.dir+"/stranger/y/key")); err != nil {
					t.Fatal(err)
				}
			}
			if err := exec.Command("sh", "-c", strings.ReplaceAll(other.makes, "$DIR", b.dir)).Run(); err != nil {
				t.Fatal(err)
			}
			if err := exec.Command("chmod", "-R", "a+rwX", b.dir+"/theirs").Run(); err != nil {
				t.Fatal(err)
			}
			b.start(theirs, others+other.others)
			if said := b.shell("other", "echo served"); name != "exec" && said != "served\n" {
				t.Fatalf("before anything is bent the other service says %q\n%s", said, b.output())
			}
			b.taken("mv $DIR/theirs/x $DIR/theirs/aside; ln -s $DIR/" + target + " $DIR/theirs/x")
			if said := b.shell("other", other.reads); strings.Contains(said, b.secret) {
				t.Errorf("GOT OUT: a stranger's file was read through a link of another service: %q", said)
			}
			b.untouched()
			if !strings.Contains(b.output(), b.dir+"/theirs/x is a symbolic link below "+b.dir+"/theirs, which a service may write") {
				t.Errorf("the log does not say why:\n%s", b.output())
			}
			// And it goes on when the folder is there again.
			b.taken("rm $DIR/theirs/x; mv $DIR/theirs/aside $DIR/theirs/x")
			if said := b.shell("other", "echo served"); name != "exec" && said != "served\n" {
				t.Errorf("afterwards the other service says %q", said)
			}
		})
	}
}

// TestFolderThatBecomesAnothers: the service that may write there comes by a reload, when what
// the other one has is mounted, and known, already.
func TestFolderThatBecomesAnothers(t *testing.T) {
	b := newBent(t)
	if err := errors.Join(os.Mkdir(b.dir+"/theirs/x", 0o777), os.Chmod(b.dir+"/theirs", 0o755)); err != nil {
		t.Fatal(err)
	}
	b.configure("[sandbox]\nwritable = [\"$/theirs\"]\n", others+"[sandbox]\nread_only = [\"$/theirs/x:/data\"]\n")
	later := b.dir + "/conf/taken.toml"
	if err := os.Rename(later, b.dir+"/later"); err != nil {
		t.Fatal(err)
	}
	b.run()
	if said := b.shell("other", "echo served"); said != "served\n" {
		t.Fatalf("%q\n%s", said, b.output())
	}
	if err := errors.Join(os.Chmod(b.dir+"/theirs", 0o777), os.Rename(b.dir+"/later", later), b.cmd.Process.Signal(unix.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	b.await(func() bool { return strings.Contains(b.output(), "configuration reloaded") })
	if err := os.Chmod(b.dir+"/theirs", 0o755); err != nil { // as an ordinary user's: nothing tells but the claim
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(b.dir+"/theirs", 0o777); err != nil {
			t.Fatal(err)
		}
	}
	b.taken("mv $DIR/theirs/x $DIR/theirs/aside; ln -s $DIR/stranger $DIR/theirs/x")
	if said := b.shell("other", "cat /data/key"); strings.Contains(said, b.secret) {
		t.Errorf("GOT OUT: a stranger's file was read: %q", said)
	}
}

// TestOutputBelowAnothersFolder: what a service prints goes to a file that another one
// may replace.
func TestOutputBelowAnothersFolder(t *testing.T) {
	b := newBent(t)
	b.start("[sandbox]\nwritable = [\"$/theirs\"]\n", others+"stderr = \"$/theirs/err\"\n")
	// At once: the next sandbox that is built ahead makes the file where there is none.
	b.taken("ln -s $DIR/stranger/key $DIR/theirs/link; mv -fT $DIR/theirs/link $DIR/theirs/err")
	b.shell("other", "echo poison >&2")
	b.untouched()
}

// exchange exchanges two names, so many times.
const exchange = `python3 - <<'E'
import ctypes
libc = ctypes.CDLL(None)
for _ in range(%[3]d): assert libc.renameat2(-100, b"%[1]s", -100, b"%[2]s", 2) == 0
E`

// hasPython skips what takes python3 for the intruder.
func hasPython(t *testing.T) {
	if _, err := os.Stat("/usr/bin/python3"); err != nil {
		ktest.Skip(t, "%v: install python3", err)
	}
}

// TestDirectoryBelowAnothers: a service's state directory lies in a folder of another one, which
// swaps it for a link while we make it, give it away and mount it.
func TestDirectoryBelowAnothers(t *testing.T) {
	hasPython(t)
	b := newBent(t)
	name := filepath.Base(b.dir)
	state := b.dir + "/state/" + name
	if os.Geteuid() == 0 {
		state = "/var/lib/" + name
		t.Cleanup(func() { _ = os.RemoveAll(state) })
		// Its owner shows whether it was given away.
		if err := os.Chmod(b.dir+"/stranger", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mustShare(t, state)
	user := ""
	if os.Geteuid() == 0 {
		user = "user = \"61990\"\n"
		if err := os.Chown(state, 61990, 61990); err != nil {
			t.Fatal(err)
		}
	}
	b.start(user+"[sandbox]\nwritable = [\""+state+"\"]\n", others+"warm = false\nstate_directory = \""+name+"/sub\"\n")
	b.taken("mkdir -p " + state + "/sub; chmod 777 " + state + "/sub; ln -s " + b.dir + "/stranger " + state + "/evil")
	raced := make(chan struct{})
	go func() {
		defer close(raced)
		b.shell("taken", fmt.Sprintf(exchange, state+"/sub", state+"/evil", 1<<40))
	}()
	served := 0
	for range 300 {
		said := b.shell("other", "cat "+state+"/sub/key; echo served")
		if strings.Contains(said, b.secret) {
			t.Error("GOT OUT: a stranger's file was read through a link that was swapped in")
			break
		}
		if strings.HasSuffix(said, "served\n") {
			served++
		}
	}
	t.Logf("served %d of 300", served)
	b.stop() // and with it the race
	<-raced
	b.untouched()
	var stat unix.Stat_t
	if err := unix.Stat(b.dir+"/stranger/key", &stat); err != nil || int(stat.Uid) != os.Geteuid() {
		t.Errorf("GOT OUT: a stranger's file belongs to uid %d, %v", stat.Uid, err)
	}
}

// TestRuntimeDirectoryBelowAnothers: a runtime directory is cleaned away through a folder
// that another service has swapped.
func TestRuntimeDirectoryBelowAnothers(t *testing.T) {
	b := newBent(t)
	name := filepath.Base(b.dir)
	base := b.dir
	if os.Geteuid() == 0 {
		base = "/run"
		t.Cleanup(func() { _ = os.RemoveAll("/run/" + name) })
	}
	mustShare(t, base+"/"+name)
	theirs := "[sandbox]\nwritable = [\"" + base + "/" + name + "\"]\n"
	b.start("warm = false\n"+theirs, others+"warm = false\nruntime_directory = \""+name+"/sub/mine\"\n")
	if err := os.MkdirAll(b.dir+"/stranger/mine", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.dir+"/stranger/mine/file", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// It has to run while the other one does: its folder goes with it.
	keep, err := net.Dial("unix", b.dir+"/taken")
	if err != nil {
		t.Fatal(err)
	}
	defer keep.Close()
	script := "mkdir -p %[1]s/sub; chmod 777 %[1]s/sub; echo ready; read x; mv %[1]s/sub %[1]s/aside; ln -s %[2]s/stranger %[1]s/sub; echo bent; read x\n"
	fmt.Fprintf(keep, script, base+"/"+name, b.dir)
	line := make([]byte, 100)
	if n, err := keep.Read(line); !bytes.Equal(line[:n], []byte("ready\n")) {
		t.Fatalf("%q, %v\n%s", line[:n], err, b.output())
	}
	other, err := net.Dial("unix", b.dir+"/other")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	fmt.Fprintln(other, "echo ready; read x")
	if n, err := other.Read(line); !bytes.Equal(line[:n], []byte("ready\n")) {
		t.Fatalf("%q, %v\n%s", line[:n], err, b.output())
	}
	fmt.Fprintln(keep, "go")
	if n, err := keep.Read(line); !bytes.Equal(line[:n], []byte("bent\n")) {
		t.Fatalf("%q, %v\n%s", line[:n], err, b.output())
	}
	other.Close()
	b.await(func() bool {
		return strings.Contains(b.output(), "ended\" service=other") || strings.Contains(b.output(), "failed\" service=other")
	})
	b.shell("other", "echo the one before is gone by now")
	b.stop()
	if _, err := os.Stat(b.dir + "/stranger/mine/file"); err != nil {
		t.Errorf("GOT OUT: a stranger's folder was removed: %v", err)
	}
}

// TestSocketBelowAnothersFolder: a service listens in a folder that another one swaps for
// a stranger's, where what is dead is cleared away and a node is made.
func TestSocketBelowAnothersFolder(t *testing.T) {
	hasPython(t)
	b := newBent(t)
	if err := errors.Join(os.Mkdir(b.dir+"/theirs/run", 0o777), os.Chmod(b.dir+"/theirs/run", 0o777)); err != nil {
		t.Fatal(err)
	}
	dead, err := bind(t.Context(), "unix", b.dir+"/stranger/s")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close() // its node stays
	var before unix.Stat_t
	if err := unix.Lstat(b.dir+"/stranger/s", &before); err != nil {
		t.Fatal(err)
	}
	b.start("[sandbox]\nwritable = [\"$/theirs\"]\n", "listen = [\"unix://$/theirs/run/s\"]\n"+others)
	if said := b.shell("theirs/run/s", "echo served"); said != "served\n" {
		t.Fatalf("%q\n%s", said, b.output())
	}
	// At once: in between the folder would be made anew.
	b.taken("ln -s $DIR/stranger $DIR/theirs/link\n" + fmt.Sprintf(exchange, b.dir+"/theirs/run", b.dir+"/theirs/link", 1))
	same := func() bool {
		var now unix.Stat_t
		return unix.Lstat(b.dir+"/stranger/s", &now) == nil && now.Ino == before.Ino && now.Ctim == before.Ctim
	}
	// Healed elsewhere, or refused.
	b.await(func() bool { return !same() || strings.Contains(b.output(), "run is a symbolic link below") })
	b.stop()
	if !same() {
		t.Error("GOT OUT: a stranger's node was removed, and a socket made in its folder")
	}
	if names, err := filepath.Glob(b.dir + "/stranger/.*activator*"); err != nil || len(names) > 0 {
		t.Errorf("GOT OUT: left in a stranger's folder: %q, %v", names, err)
	}
}

// TestSocketBehindALink: the link is there before the activator starts, left by a
// service of the run before.
func TestSocketBehindALink(t *testing.T) {
	b := newBent(t)
	if err := os.Symlink(b.dir+"/stranger", b.dir+"/theirs/run"); err != nil {
		t.Fatal(err)
	}
	b.configure("[sandbox]\nwritable = [\"$/theirs\"]\n", "listen = [\"unix://$/theirs/run/s\"]\n"+others)
	for _, arguments := range [][]string{{"check"}, nil} {
		cmd := exec.Command(program(t, "activator"), append(arguments, "--config", b.dir+"/conf")...)
		end := time.AfterFunc(waitTimeout, func() { _ = cmd.Process.Signal(unix.SIGTERM) })
		out, err := cmd.CombinedOutput()
		end.Stop()
		if err == nil || !strings.Contains(string(out), b.dir+"/theirs/run is a symbolic link below "+b.dir+"/theirs, which a service may write, and not followed") {
			t.Errorf("GOT OUT: %q: %v\n%s", arguments, err, out)
		}
	}
	if _, err := os.Lstat(b.dir + "/stranger/s"); err == nil {
		t.Error("GOT OUT: a socket was made in a stranger's folder")
	}
}
