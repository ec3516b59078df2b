package test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// withoutIPv6 is a command in a network namespace whose lo has no IPv6, as in a
// container of Docker's.
func withoutIPv6(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	words := []string{"--net"}
	if os.Getuid() != 0 {
		words = append(words, "--map-root-user")
	}
	const script = `ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/lo/disable_ipv6 && exec "$@"`
	words = append(words, "sh", "-c", script, "sh")
	if out, err := exec.Command("unshare", append(words, "true")...).CombinedOutput(); err != nil {
		ktest.Skip(t, "a network without IPv6: %v: %s", err, out)
	}
	return exec.Command("unshare", append(words, argv...)...)
}

// Where there is no IPv6, no client can come to an address of it: check and the log say so,
// and the other addresses are served. Only a service without any other is refused.
func TestWithoutIPv6(t *testing.T) {
	dir, n := folder(t), ktest.Port(t)
	listen, addrs := fiveSockets(n, dir)
	config := configureIn(t, dir, "echo", "[[socket]]\n"+listen+"\n[service]\nexec = [\"ECHO\"]\n")
	const left = "this machine has no IPv6"
	out, err := withoutIPv6(t, program(t, "activator"), "check", "--config", config).CombinedOutput()
	if err != nil || strings.Count(string(out), left) != 2 || !strings.Contains(string(out), "3 sockets, good") {
		t.Errorf("check: %v: %s", err, out)
	}
	a := launchAs(t, withoutIPv6(t, program(t, "activator"), "--config", config))
	t.Cleanup(a.stop)
	a.wait("activator ready")
	if got := a.log.count(left); got != 2 {
		t.Errorf("%d addresses are left out, want 2: %s", got, a.log.all())
	}
	answered(t, "without IPv6", addrs[4]) // a path is reached from any network

	alone := configureIn(t, dir, "alone", "[[socket]]\nlisten = [\"tcp://[::1]:3000\"]\n[service]\nexec = [\"ECHO\"]\n")
	if out, err := withoutIPv6(t, program(t, "activator"), "check", "--config", alone).CombinedOutput(); err == nil {
		t.Errorf("a service with no address that anybody could come to is good: %s", out)
	}
}
