// Of another package: with imports of its own, of which syscall is one, this one would not
// be the first.
package nofile_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"activator/internal/ktest"
	"activator/internal/nofile"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "tell" {
		var now syscall.Rlimit
		err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &now)
		soft, ok := nofile.Started()
		fmt.Println(soft, ok, now.Cur > soft, err)
		os.Exit(0)
	}
	ktest.Main(m)
}

// What we know is what was set before the runtime raised it, which it did.
func TestStarted(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, soft := range []string{"64", "100"} {
		out, err := exec.Command("sh", "-c", "ulimit -S -n "+soft+` && exec "$0" tell`, self).CombinedOutput()
		if got, want := strings.TrimSpace(string(out)), soft+" true true <nil>"; got != want || err != nil {
			t.Errorf("%q, not %q: %v", got, want, err)
		}
	}
}
