package test

import (
	"os/exec"
	"strings"
	"testing"

	"activator/internal/ktest"
)

// The doctor tries the default sandbox, and where it cannot work says so, with
// the cause and the cure, and ends with 1.
func TestDoctor(t *testing.T) {
	out := command(t, "", program(t, "activator"), "doctor")
	if !strings.Contains(out, "yes  default sandbox") {
		t.Errorf("the doctor finds no default sandbox:\n%s", out)
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		ktest.Skip(t, "%v: install util-linux", err)
	}
	// A user namespace in which no further one is allowed.
	ill := exec.Command("unshare", "--user", "--map-root-user", "sh", "-c",
		"echo 0 >/proc/sys/user/max_user_namespaces && exec "+program(t, "activator")+" doctor")
	said, _ := ill.CombinedOutput()
	if code := ill.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", code, said)
	}
	for _, want := range []string{"NO   default sandbox", "max_user_namespaces", "to get it:"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("%q is missing in\n%s", want, said)
		}
	}
}

// In a chroot the cure is not to ask the doctor.
func TestDoctorInAChroot(t *testing.T) {
	if _, err := exec.LookPath("unshare"); err != nil {
		ktest.Skip(t, "%v: install util-linux", err)
	}
	root := t.TempDir()
	// proc is mounted first: in a chroot of a user namespace it cannot be.
	ill := exec.Command("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "sh", "-c",
		`mkdir "$1/proc" "$1/dev" && mount -n -t proc proc "$1/proc" && mount -n --rbind /dev "$1/dev" && cp "$2" "$1/activator" && exec chroot "$1" /activator doctor`,
		"sh", root, program(t, "activator"))
	said, _ := ill.CombinedOutput()
	if code := ill.ProcessState.ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1:\n%s", code, said)
	}
	if want := "to get it: in a chroot the kernel makes no user namespace"; !strings.Contains(string(said), want) {
		t.Errorf("%q is missing in\n%s", want, said)
	}
}

func TestVersion(t *testing.T) {
	if out := command(t, "", program(t, "activator"), "version"); !strings.HasPrefix(out, "activator ") || !strings.Contains(out, "go1.") {
		t.Errorf("version: %q", out)
	}
}
