package sockfilter

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
	"activator/internal/spec"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case roleVictim:
		victim()
	case roleIntruder:
		intruder()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for those two
	ktest.Main(m)
}

// open opens for a test, which skips for an ordinary user.
func open(tb testing.TB, peers int) *Programs {
	tb.Helper()
	ktest.Filters(tb)
	p, err := Open(peers)
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
func udp4() spec.Kind { return kind(unix.AF_INET, unix.SOCK_DGRAM, 0) }
func udp6() spec.Kind { return kind(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP) }

func kind(family, typ, protocol int) spec.Kind {
	return spec.Kind{Family: family, Type: typ, Protocol: protocol}
}
