package sandbox

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// A link of ours may name a namespace; one that a service may have put there would have
// another service join the host's network.
func TestNetworkBehindALink(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(dir+"/ours", 0o755), os.Mkdir(dir+"/theirs", 0o755)); err != nil {
		t.Fatal(err)
	}
	fd.ClaimFolders(dir + "/theirs")
	for _, name := range []string{"/ours", "/theirs"} {
		if err := os.Symlink("/proc/self/ns/net", dir+name+"/net"); err != nil {
			t.Fatal(err)
		}
	}
	looked, err := lookNetwork(dir + "/ours/net")
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(looked)
	leave, err := JoinNetwork(dir + "/theirs/net")
	if !errors.Is(err, unix.ELOOP) || !strings.Contains(err.Error(), dir+"/theirs/net is a symbolic link below") {
		t.Error(err)
	}
	if err := leave(); err != nil {
		t.Error(err)
	}
}
