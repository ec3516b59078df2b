package sandbox

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
)

// What could not be opened is said with its call, its path and its cure.
func TestOpenError(t *testing.T) {
	for _, test := range []struct {
		call, path string
		err        error
		want       string
	}{
		{"open", os.DevNull, syscall.ENOENT, "open /dev/null: no such file or directory: /dev needs the null device"},
		{"open", os.DevNull, syscall.EMFILE, "open /dev/null: too many open files: raise the limit nofile"},
		{"open", os.DevNull, syscall.ENXIO, "open /dev/null: no such device or address: /dev needs the null device"},
		{"socketpair", "", os.NewSyscallError("socketpair", syscall.ENFILE), "socketpair: too many open files in system: the host has no descriptors left: raise sysctl fs.file-max"},
		{"start x from", "/proc/self/exe", syscall.ENOENT, "start x from /proc/self/exe: no such file or directory: is /proc mounted?"},
		{"start x from", "/proc/self/exe", syscall.EAGAIN, "start x from /proc/self/exe: resource temporarily unavailable: raise the limit nproc"},
	} {
		if got := OpenError(test.call, test.path, test.err); !strings.HasPrefix(got.Error(), test.want) || !errors.Is(got, got.Errno) {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
	if err := AddCure(&os.PathError{Op: "open", Path: "/x", Err: syscall.ENFILE}); !strings.Contains(err.Error(), "open /x: too many open files in system: the host") || !errors.Is(err, syscall.ENFILE) {
		t.Error(err)
	}
	for _, err := range []error{nil, os.ErrNotExist, AddCure(syscall.EMFILE)} {
		if got := AddCure(err); got != err {
			t.Errorf("%v became %v", err, got)
		}
	}
}
