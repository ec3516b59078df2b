package container

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// The limit of descriptors is what a service has without a container.
func TestOwnLimit(t *testing.T) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	own := spec.LimitDescriptors(now.Max)
	want := formatLimit("nofile", own.Soft, own.Hard)
	if got, err := ownLimit("nofile"); got != want || err != nil {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
	if err := unix.Getrlimit(unix.RLIMIT_NPROC, &now); err != nil {
		t.Fatal(err)
	}
	now.Max = min(now.Max, mostProcesses)
	if got, err := ownLimit("nproc"); got != fmt.Sprintf("--ulimit=nproc=%s:%s", formatNumber(now.Max), formatNumber(now.Max)) || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}
