package main

import (
	"encoding/binary"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
)

// A filter can answer a call with an error, and not with a version or a descriptor. So Landlock's
// version is told by a process beside the program, by user notification, seccomp_unotify(2): once,
// as the program asks once. Then the listener is closed, since of filters above
// each other only one may have a listener, and the program's own services want one.
//
// Where the program's filters are only pretended to be loaded, none of them has one, and ours stays: a program
// that asks for the listener of its filter gets a descriptor at which nothing is ever asked.

const answerer = "--answer"

// The message with the listener is Landlock's version, and whether the listener stays.
const versionSize = 4

// startAnswerer returns the end over which it is sent its number and the listener.
func startAnswerer() (*os.File, error) {
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

func (n *notification) number() int { return int(binary.NativeEndian.Uint32(n.data[numberAt:])) }

// argument is the lower half of one.
func (n *notification) argument(i int) uint32 {
	return binary.NativeEndian.Uint32(n.data[firstAt+8*i:])
}

type addition struct {
	id                                uint64
	flags, source, target, descriptor uint32
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// answer is the process that does.
func answer() error {
	text := make([]byte, versionSize+1)
	var message fdpass.Receiver
	_, listener, err := message.Receive(3, text)
	if err != nil || listener < 0 {
		return err // its other end is gone
	}
	if events, err := fd.Poll(listener, unix.POLLIN, -1); err != nil || events&unix.POLLIN == 0 {
		return err // it has ended and never asked
	}
	value, stays := int64(binary.NativeEndian.Uint32(text)), text[versionSize] != 0
	if stays {
		return pretendFilters(listener, value)
	}
	var asked notification
	if err := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked)); err != nil {
		return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_RECV", err)
	}
	// It stands still until the listener is closed: what it does next may need one.
	if err := unix.Kill(int(asked.pid), unix.SIGSTOP); err != nil {
		return os.NewSyscallError("kill", err)
	}
	sent := ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&response{id: asked.id, value: value}))
	_ = unix.Close(listener)
	if err := unix.Kill(int(asked.pid), unix.SIGCONT); err != nil {
		return os.NewSyscallError("kill", err)
	}
	return os.NewSyscallError("SECCOMP_IOCTL_NOTIF_SEND", sent)
}

// pretendFilters answers until nobody is left who could ask.
func pretendFilters(listener int, version int64) error {
	silent, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	for {
		if events, err := fd.Poll(listener, unix.POLLIN, -1); err != nil || events&unix.POLLIN == 0 {
			return err
		}
		var asked notification
		if ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&asked)) != nil {
			continue // it was killed meanwhile
		}
		r := response{id: asked.id}
		switch {
		case asked.number() != unix.SYS_SECCOMP:
			r.value = version
		case asked.argument(1)&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0:
			given := addition{id: asked.id, flags: unix.SECCOMP_ADDFD_FLAG_SEND, source: uint32(silent), descriptor: unix.O_CLOEXEC}
			_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(&given))
			continue
		}
		_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // ENOENT: killed
	}
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return errno
	}
	return nil
}
