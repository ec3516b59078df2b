package usernotif

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// notification is struct seccomp_notif of linux/seccomp.h.
type notification struct {
	ID    uint64
	PID   uint32 // of the thread, in our pid namespace
	Flags uint32
	Nr    int32
	Arch  uint32
	IP    uint64
	Args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	ID    uint64
	Value int64
	Error int32 // negative errno
	Flags uint32
}

// addition is struct seccomp_notif_addfd.
type addition struct {
	ID       uint64
	Flags    uint32
	Source   uint32 // ours
	Target   uint32 // the caller's number
	FileFlag uint32 // O_CLOEXEC or 0
}

func callIoctl(listener int, request uintptr, argument unsafe.Pointer) error {
	return fd.RetryEINTR(func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), request, uintptr(argument))
		if errno != 0 {
			return errno
		}
		return nil
	})
}

// takeDescriptor returns our copy of descriptor number of the calling thread. The caller
// closes it. Whether the thread is still the one that called has to be asked
// afterwards, see [Supervisor.valid].
func takeDescriptor(thread uint32, number int) (int, error) {
	pidfd, err := unix.PidfdOpen(int(thread), unix.PIDFD_THREAD)
	if err == unix.EINVAL { // before Linux 6.9; threads of one process mostly share their descriptors
		var pid int
		if pid, err = processOf(thread); err == nil {
			pidfd, err = unix.PidfdOpen(pid, 0)
		}
	}
	if err != nil {
		return -1, os.NewSyscallError("pidfd_open", err)
	}
	defer func() { _ = unix.Close(pidfd) }()
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return -1, os.NewSyscallError("pidfd_getfd", err)
	}
	return fd, nil
}

// processOf is the process of a thread: Tgid of proc_pid_status(5).
func processOf(thread uint32) (int, error) {
	status, err := proc.ReadStatus(int(thread))
	if err != nil {
		return 0, unix.ESRCH
	}
	return strconv.Atoi(status["Tgid"])
}

// isCloseOnExec reports whether descriptor number of the thread has the flag.
func isCloseOnExec(thread uint32, number int) bool {
	descriptor, _ := proc.ReadDescriptor(int(thread), number)
	flags, err := strconv.ParseUint(descriptor["flags"], 8, 32)
	return err == nil && flags&unix.O_CLOEXEC != 0
}

// workingDirectory is that of the thread, as the thread sees it.
func workingDirectory(thread uint32) string {
	folder, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", thread))
	return folder
}

// maxAddress is the size of struct sockaddr_storage.
const maxAddress = 128

// copyAddress copies an address out of the calling thread's memory. The copy is what
// we act on: the program cannot change it any more.
func copyAddress(thread uint32, at, size uint64) ([]byte, error) {
	if size > maxAddress {
		return nil, unix.EINVAL
	}
	return copyMemory(thread, at, size)
}

// copyMemory copies size bytes, which are few.
func copyMemory(thread uint32, at, size uint64) ([]byte, error) {
	copied := make([]byte, size)
	if size == 0 {
		return copied, nil
	}
	local := []unix.Iovec{{Base: &copied[0]}}
	local[0].SetLen(len(copied))
	n, err := unix.ProcessVMReadv(int(thread), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(copied)}}, 0)
	if err != nil || n != len(copied) {
		return nil, unix.EFAULT
	}
	return copied, nil
}

// pathOf is the path in an address of unix(7); "" of any other.
func pathOf(sockaddr []byte) string {
	if len(sockaddr) < 3 || binary.NativeEndian.Uint16(sockaddr) != unix.AF_UNIX {
		return ""
	}
	path, _, _ := bytes.Cut(sockaddr[2:], []byte{0})
	return string(path)
}

// netnsCookie tells network namespaces apart, also those that were: SO_NETNS_COOKIE
// of socket(7), Linux 5.14.
func netnsCookie(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// cookieOf tells sockets apart, also those that were: SO_COOKIE.
func cookieOf(fd int) (uint64, error) {
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
}

// readBoundAddress returns the address that fd is bound to, as struct sockaddr; only the
// family where it is not.
func readBoundAddress(fd int) ([]byte, error) {
	return readAddress(unix.SYS_GETSOCKNAME, "getsockname", fd)
}

// readPeerAddress returns the address that fd is connected to.
func readPeerAddress(fd int) ([]byte, error) {
	return readAddress(unix.SYS_GETPEERNAME, "getpeername", fd)
}

func readAddress(number uintptr, name string, fd int) ([]byte, error) {
	var buf [maxAddress]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall(number, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return nil, os.NewSyscallError(name, errno)
	}
	return buf[:min(int(size), len(buf))], nil
}

func callWithAddress(nr uintptr, fd int, sockaddr []byte) error {
	var at unsafe.Pointer
	if len(sockaddr) > 0 {
		at = unsafe.Pointer(&sockaddr[0])
	}
	_, _, errno := unix.Syscall(nr, uintptr(fd), uintptr(at), uintptr(len(sockaddr)))
	if errno != 0 {
		return errno
	}
	return nil
}
