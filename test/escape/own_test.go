package escape

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a service has as its own, and what it makes of that.

// mustShare makes a folder that everybody may write.
func mustShare(t *testing.T, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, 0o777)); err != nil {
		t.Fatal(err)
	}
}

// TestFIFOThatIsOpened: a service has the id that its FIFO belongs to, and lets everybody write it. That ends with
// the run.
func TestFIFOThatIsOpened(t *testing.T) {
	b := newBent(t)
	owner := ""
	if os.Geteuid() == 0 {
		owner = "61990"
	}
	text := strings.ReplaceAll(`[[socket]]
listen = ["fifo://$/pipe"]
socket_mode = "0600"
socket_user = "OWNER"
[service]
exec = ["/bin/sh", "-c", "chmod 666 /proc/self/fd/3; head -c 1 <&3"]
user = "OWNER"
`, "$", b.dir)
	text = strings.ReplaceAll(text, "OWNER", owner)
	if owner == "" {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "socket_user = \"\"\n", ""), "user = \"\"\n", "")
	}
	if err := os.WriteFile(b.dir+"/conf/pipe.toml", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	b.run()
	if err := os.WriteFile(b.dir+"/pipe", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	b.await(func() bool {
		return strings.Contains(b.output(), "the service had changed its mode, owner or access control list; set back")
	})
	if info, err := os.Stat(b.dir + "/pipe"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("GOT OUT: others may write the FIFO: %v, %v", info.Mode(), err)
	}
}

// TestFileMovedIntoItsDirectory: whoever has the service's id moves root's file into its state directory, out of a
// folder that he may write, and gives that folder another group: it is not the service's own any more, and is
// given to it again.
func TestFileMovedIntoItsDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives folders to others")
	}
	b := newBent(t)
	name := filepath.Base(b.dir)
	state := "/var/lib/" + name
	t.Cleanup(func() { _ = os.RemoveAll(state) })
	b.start("warm = false\nuser = \"61990\"\ngroup = \"61991\"\nstate_directory = \""+name+"\"\n", others)
	b.taken("echo own >" + state + "/own; mkdir " + state + "/sub")
	for _, path := range []string{"/key", "/sub/key"} {
		if err := os.WriteFile(state+path, []byte(b.secret+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(state, -1, 61990); err != nil {
		t.Fatal(err)
	}
	if said := b.shell("taken", "cat "+state+"/own "+state+"/key "+state+"/sub/key"); said != "own\n" {
		t.Errorf("GOT OUT: root's file was given away: %q", said)
	}
	if !strings.Contains(b.output(), state+" to uid 61990, 2 left; give them by hand") {
		t.Errorf("the log does not say what was left:\n%s", b.output())
	}
}
