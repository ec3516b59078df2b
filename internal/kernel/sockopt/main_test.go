package sockopt

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

// inNetwork reports whether this process is one in a user and a network namespace of its own:
// the test runs in such a one again, else.
func inNetwork(t *testing.T) bool {
	t.Helper()
	const key = "SOCKOPT_TEST_NETWORK"
	if os.Getenv(key) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), key+"=1", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		ktest.Skip(t, "no user namespaces: %v", err)
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// kinds are sockets that programs bind and get ours for.
var kinds = map[string][3]int{
	"tcp4": {unix.AF_INET, unix.SOCK_STREAM}, "udp4": {unix.AF_INET, unix.SOCK_DGRAM},
	"tcp6": {unix.AF_INET6, unix.SOCK_STREAM}, "udp6": {unix.AF_INET6, unix.SOCK_DGRAM},
	"mptcp6": {unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_MPTCP},
	"unix":   {unix.AF_UNIX, unix.SOCK_STREAM}, "unixgram": {unix.AF_UNIX, unix.SOCK_DGRAM}, "unixpacket": {unix.AF_UNIX, unix.SOCK_SEQPACKET},
}

func open(t *testing.T, kind string) int {
	t.Helper()
	k := kinds[kind]
	fd, err := unix.Socket(k[0], k[1]|unix.SOCK_CLOEXEC, k[2])
	if err == unix.EPROTONOSUPPORT || err == unix.ENOPROTOOPT || err == unix.EAFNOSUPPORT {
		ktest.Skip(t, "%s: %v", kind, err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// setting is an option and the number it is set to, or reads.
type setting struct{ level, name, value int }

func set(t *testing.T, fd int, list ...setting) {
	t.Helper()
	for _, s := range list {
		if err := unix.SetsockoptInt(fd, s.level, s.name, s.value); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
	}
}

func wants(t *testing.T, fd int, list ...setting) {
	t.Helper()
	for _, s := range list {
		if got, err := unix.GetsockoptInt(fd, s.level, s.name); got != s.value || err != nil {
			t.Errorf("level %d, option %d: %d, %v, want %d", s.level, s.name, got, err, s.value)
		}
	}
}

func tos(n int) setting   { return setting{unix.IPPROTO_IP, unix.IP_TOS, n} }
func prio(n int) setting  { return setting{unix.SOL_SOCKET, unix.SO_PRIORITY, n} }
func ttl(n int) setting   { return setting{unix.IPPROTO_IP, unix.IP_TTL, n} }
func mark(n int) setting  { return setting{unix.SOL_SOCKET, unix.SO_MARK, n} }
func class(n int) setting { return setting{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, n} }
