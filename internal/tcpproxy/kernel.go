package tcpproxy

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockaddr"
)

// The system calls of the loop. All return at once, and so are made without
// telling the scheduler.

// receiveBytes is recvfrom(2) without address; 0 bytes are the end of file.
func receiveBytes(fd int32, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

// sendBytes is sendto(2) without address. b is not empty. flags: 0 or MSG_MORE.
func sendBytes(fd int32, b []byte, flags uintptr) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|flags, 0, 0)
	return int(n), e
}

// splice is splice(2) of two descriptors without offsets.
func splice(from, to int32, most int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most),
		unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(n), e
}

// accept is accept4(2); the new socket is non-blocking and close-on-exec.
func accept(fd int32, from *sockaddr.Raw) (int32, unix.Errno) {
	from.N = uint32(len(from.B))
	n, _, e := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&from.B)), uintptr(unsafe.Pointer(&from.N)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int32(n), e
}

func shutdown(fd int32) unix.Errno {
	_, _, e := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return e
}

// closeFD is close(2): the descriptor is gone whatever it says.
func closeFD(fd int32) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

// peekByte is recvfrom(2) of one byte that stays.
func peekByte(fd int32) (int, unix.Errno) {
	var b [1]byte
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1, unix.MSG_DONTWAIT|unix.MSG_PEEK, 0, 0)
	return int(n), e
}

// setOption sets an option that is a C int, or struct linger by its two.
func setOption(fd int32, level, name int, value ...int32) unix.Errno {
	_, _, e := unix.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(4*len(value)), 0)
	return e
}

// readOption reads an option that is a C int.
func readOption(fd int32, level, name int) (int, unix.Errno) {
	var value int32
	size := uint32(unsafe.Sizeof(value))
	_, _, e := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	return int(value), e
}

// countUnsent is how many bytes the peer has not confirmed yet, ioctl SIOCOUTQ. tcp(7),
// unix(7)
func countUnsent(fd int32) int {
	var n int32
	if _, _, e := unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCOUTQ, uintptr(unsafe.Pointer(&n))); e != 0 {
		return 0
	}
	return int(n)
}

// epollControl is epoll_ctl(2); slot and generation come back with the events.
func epollControl(epoll int32, op int, fd int32, events uint32, slot, generation int32) unix.Errno {
	e := unix.EpollEvent{Events: events, Fd: slot, Pad: generation}
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(&e)), 0, 0)
	return errno
}

// stepError is an error of a system call, by its name.
func stepError(call string, e unix.Errno) error { return os.NewSyscallError(call, e) }
