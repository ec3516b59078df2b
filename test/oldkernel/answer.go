package main

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// A filter can answer a call with an error, and not with a version. So Landlock's version
// is told by a process beside the program, by user notification, seccomp_unotify(2): once,
// as the program asks once. Then the listener is closed, since of filters above
// each other only one may have a listener, and the program's own services want one.

const answerer = "--answer"

// startAnswerer returns the end over which it is sent its number and the listener.
func startAnswerer(abi int) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer func() { _ = theirs.Close() }()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = null.Close() }()
	process, err := os.StartProcess("/proc/self/exe", []string{"oldkernel", answerer}, &os.ProcAttr{Files: []*os.File{null, null, os.Stderr, theirs}})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(pair[0]), "control"), process.Release()
}

// The structures of seccomp_unotify(2).

type notification struct {
	id         uint64
	pid, flags uint32
	data       [64]byte // struct seccomp_data
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// answer is the process that does.
func answer() error {
	text := make([]byte, 4)
	var message fdpass.Receiver
	_, listener, err := message.Receive(3, text)
	if err != nil || listener < 0 {
		return err // its other end is gone
	}
	if events, err := fd.Poll(listener, unix.POLLIN, -1); err != nil || events&unix.POLLIN == 0 {
		return err // it has ended and never asked
	}
	var asked notification
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked)); err != nil {
		return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_RECV", err)
	}
	// It stands still until the listener is closed: what it does next may need one.
	if err := unix.Kill(int(asked.pid), unix.SIGSTOP); err != nil {
		return os.NewSyscallError("kill", err)
	}
	sent := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response{id: asked.id, value: int64(binary.NativeEndian.Uint32(text))}))
	_ = unix.Close(listener)
	if err := unix.Kill(int(asked.pid), unix.SIGCONT); err != nil {
		return os.NewSyscallError("kill", err)
	}
	return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_SEND", sent)
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
