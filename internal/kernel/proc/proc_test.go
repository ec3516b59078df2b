package proc

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"activator/internal/ktest"
)

func TestMain(m *testing.M) { ktest.Main(m) }

func TestOwn(t *testing.T) {
	status, err := ReadStatus(os.Getpid())
	if err != nil || status["Pid"] != strconv.Itoa(os.Getpid()) || status["PPid"] != strconv.Itoa(os.Getppid()) {
		t.Errorf("%v, %v", status, err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	descriptor, err := ReadDescriptor(os.Getpid(), int(null.Fd()))
	if flags, bad := strconv.ParseUint(descriptor["flags"], 8, 32); err != nil || bad != nil || flags&uint64(os.O_RDWR) != 0 {
		t.Errorf("%v, %v", descriptor, err)
	}
	if !slices.Contains(ListPids(), os.Getpid()) {
		t.Error(ListPids())
	}
}

func TestGone(t *testing.T) {
	const never = 1 << 30 // above the most that pid_max can be
	if status, err := ReadStatus(never); !os.IsNotExist(err) {
		t.Errorf("%v, %v", status, err)
	}
}

func TestKernel(t *testing.T) {
	if most, err := strconv.Atoi(ReadSysctl("kernel.pid_max")); err != nil || most < 1 {
		t.Error(most, err)
	}
	if value := ReadSysctl("kernel.none"); value != "" {
		t.Error(value)
	}
	if release := KernelRelease(); release != ReadSysctl("kernel.osrelease") {
		t.Error(release)
	}
}
