package replyonly

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestMain(m *testing.M) {
	if IsHelper() {
		Helper()
	}
	switch os.Getenv(roleVariable) {
	case roleVictim:
		victim()
	case roleIntruder:
		intruder()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for those two
	ktest.Main(m)
}

// start is what the daemon's starter does.
func start(argv []string, attr *syscall.ProcAttr) (int, error) {
	pid, _, err := syscall.StartProcess("/proc/self/exe", argv, attr)
	return pid, err
}

// open opens for a test, which skips for an ordinary user.
func open(tb testing.TB, peers int) *Programs {
	tb.Helper()
	ktest.Filters(tb)
	p, err := Open(start, peers)
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		tb.Skipf("sealing needs root, and says so: %v", err)
	}
	if err != nil {
		ktest.Skip(tb, "%v", err)
	}
	tb.Cleanup(func() { _ = p.Close() })
	return p
}

// udp4 and udp6 are the two kinds there are.
func udp4() spec.Kind { return spec.Kind{Family: unix.AF_INET, Type: unix.SOCK_DGRAM, Protocol: 0} }
func udp6() spec.Kind {
	return spec.Kind{Family: unix.AF_INET6, Type: unix.SOCK_DGRAM, Protocol: unix.IPPROTO_UDP}
}
