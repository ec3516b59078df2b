package test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"activator/internal/ktest"
)

// withoutInotify is an activator in a user namespace that may have no instance of
// inotify, as where others have used up this user's. The namespace in it has the
// activator be an ordinary user.
func withoutInotify(t *testing.T, config string) *activator {
	t.Helper()
	const script = `echo 0 >/proc/sys/user/max_inotify_instances && exec unshare --user --map-user=1000 --map-group=1000 "$0" "$@"`
	in := func(argv ...string) *exec.Cmd {
		return exec.Command("unshare", append([]string{"--user", "--map-root-user", "sh", "-c", script}, argv...)...)
	}
	if out, err := in("true").CombinedOutput(); err != nil {
		ktest.Skip(t, "a user namespace without inotify: %v: %s", err, out)
	}
	a := launchAs(t, in(program(t, "activator"), "--config", config))
	t.Cleanup(a.stop)
	a.wait("activator ready")
	return a
}

// Where inotify is used up, nodes are put back all the same, and the log says in one
// line that it takes longer. A service without nodes misses nothing.
func TestInotifyUsedUp(t *testing.T) {
	const cannot = "nodes cannot be watched"
	dir, n := folder(t), ktest.Port(t)
	sock := func(i int) string { return fmt.Sprintf("%s/s%d", dir, i) }
	a := withoutInotify(t, configureIn(t, dir, "both",
		fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s\", \"unix://%s\", \"tcp://127.0.0.1:%d\"]\n[service]\nexec = [\"ECHO\"]\n", sock(1), sock(2), n)))
	answered(t, "TCP", fmt.Sprintf("tcp4:127.0.0.1:%d", n))
	for i := range 2 {
		if err := os.Remove(sock(i + 1)); err != nil {
			t.Fatal(err)
		}
		a.wait("node healed", sock(i+1), "linked back")
		answered(t, "a node that was put back", "unix:"+sock(i+1))
	}
	if lines := a.log.count(cannot); lines != 1 {
		t.Errorf("%d lines say that nodes cannot be watched", lines)
	}
	a.stop()
	a = withoutInotify(t, configureIn(t, dir, "tcp",
		fmt.Sprintf("[[socket]]\nlisten = [\"tcp://127.0.0.1:%d\"]\n[service]\nexec = [\"ECHO\"]\n", n)))
	answered(t, "TCP alone", fmt.Sprintf("tcp4:127.0.0.1:%d", n))
	if lines := a.log.count(cannot); lines != 0 {
		t.Errorf("without a node %d lines say that it cannot be watched", lines)
	}
}
