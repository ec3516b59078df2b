package test

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Root in a user namespace with one id: a service is the activator's user, which the log and check
// say. Its sockets are served all the same, relayed ones too; and so is one that asks for root.
func TestFewIDs(t *testing.T) {
	if out, err := exec.Command("unshare", "-Ur", "true").CombinedOutput(); err != nil {
		t.Skipf("unshare -Ur: %v, %s", err, out)
	}
	const lack = "the service has the activator's own user and group: id "
	for _, user := range []string{"", "user = \"root\"\n", "user = 0\n"} {
		dir := folder(t)
		file := configureIn(t, dir, "few", fmt.Sprintf("[[socket]]\nlisten = [\"unix://%s/s\", \"unixgram://%s/g\"]\n[service]\n%sexec = [%q]\n",
			dir, dir, user, program(t, "echo")))
		out, err := exec.Command("unshare", "-Ur", program(t, "activator"), "check", "-v", "--config", file).CombinedOutput()
		if err != nil || strings.Contains(string(out), lack) != (user == "") {
			t.Errorf("%q: %v, %s", user, err, out)
		}
		a := launchAs(t, exec.Command("unshare", "-Ur", program(t, "activator"), "--config", file))
		a.wait("activator ready")
		if got := socat(t, "UNIX-CONNECT:"+dir+"/s", "hello\n"); got != "hello\n" {
			t.Errorf("%q: %q\n%s", user, got, strings.Join(a.log.all(), "\n"))
		}
		if n := a.log.count("level=INFO", lack); n > 0 != (user == "") {
			t.Errorf("%q: %d lines about it", user, n)
		}
		a.stop()
	}
}
