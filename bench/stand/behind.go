package stand

import (
	"log"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Behind is what makes bench run a program behind a seccomp filter of one instruction:
// bench behind PROGRAM [ARG...].
const Behind = "behind"

// IsBehind reports whether this process shall do so.
func IsBehind() bool { return len(os.Args) > 2 && os.Args[1] == Behind }

// RunBehind becomes the program of the command line. It never returns.
func RunBehind() {
	path, err := exec.LookPath(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	runtime.LockOSThread() // execve keeps this thread's filter
	allow := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}}
	program := unix.SockFprog{Len: uint16(len(allow)), Filter: &allow[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		log.Fatal("no_new_privs: ", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		log.Fatal("seccomp: ", err)
	}
	log.Fatal(path, ": ", syscall.Exec(path, os.Args[2:], os.Environ()))
}
