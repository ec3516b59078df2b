package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// OpenError is the refusal of a descriptor: the call, what it was to open ("" for what
// has no path), and the cure.
func OpenError(call, path string, err error) *StepError {
	var known *StepError
	if errors.As(err, &known) {
		return known
	}
	errno := syscall.EIO
	_ = errors.As(err, &errno)
	cure := cureOfShortage(errno)
	switch {
	case cure != "":
	case path == os.DevNull:
		cure = "/dev needs the null device, as udev or a container engine makes it: mknod -m 666 /dev/null c 1 3"
	case errno == syscall.EAGAIN:
		cure = "raise the limit nproc of the activator (ulimit -u, TasksMax= of a unit)"
	case strings.HasPrefix(path, "/proc/") && errno == syscall.ENOENT:
		cure = "is /proc mounted? mount -t proc proc /proc"
	}
	return &StepError{Step: call, Path: path, Errno: errno, Cure: cure}
}

// ExamineDescriptors is the error of more descriptors at once than we may ever have.
func ExamineDescriptors(count int) error {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil || uint64(count) <= limit.Max {
		return nil
	}
	refused := OpenError("socket", "", syscall.EMFILE)
	refused.Reason = fmt.Sprintf("the activator may have %d descriptors open, and these services need %d", limit.Max, count)
	return refused
}

// AddCure adds the cure to an error that tells of a shortage of descriptors, wherever it
// comes from.
func AddCure(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	cure := cureOfShortage(errno)
	if cure == "" || strings.Contains(err.Error(), cure) {
		return err
	}
	return fmt.Errorf("%w: %s", err, cure)
}

func cureOfShortage(errno syscall.Errno) string {
	switch errno {
	case syscall.EMFILE:
		return "raise the limit nofile of the activator (ulimit -n, LimitNOFILE= of a unit)"
	case syscall.ENFILE:
		return "the host has no descriptors left: raise sysctl fs.file-max"
	}
	return ""
}
