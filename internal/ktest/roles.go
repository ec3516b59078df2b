package ktest

import (
	"errors"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dissolve takes a socket's peer away, and its port if it was not bound: connect(2) to AF_UNSPEC.
func Dissolve(fd int) error {
	nobody := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&nobody)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}

// ListenersStay reports whether the kernel refuses to connect a TCP socket that has listened, as some builds
// of 6.18 do: then nothing can come of it, with or without us.
func ListenersStay(tb testing.TB) bool {
	tb.Helper()
	address := addressOf(tb, listenTCP(tb))
	listener := listenTCP(tb)
	if err := Dissolve(listener); err != nil {
		tb.Fatal(err)
	}
	return unix.Connect(listener, address) == unix.EINVAL
}

// ConnectionsStay reports whether it refuses to let a TCP socket listen that was connected.
func ConnectionsStay(tb testing.TB) bool {
	tb.Helper()
	client := socketTCP(tb)
	err := unix.Connect(client, addressOf(tb, listenTCP(tb)))
	if err := errors.Join(err, Dissolve(client)); err != nil {
		tb.Fatal(err)
	}
	return unix.Listen(client, 1) == unix.EINVAL
}

// listenTCP returns a listener at 127.0.0.1, which the end of the test closes.
func listenTCP(tb testing.TB) int {
	tb.Helper()
	fd := socketTCP(tb)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 1)); err != nil {
		tb.Fatal(err)
	}
	return fd
}

func socketTCP(tb testing.TB) int {
	tb.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(fd) })
	return fd
}

func addressOf(tb testing.TB, fd int) unix.Sockaddr {
	tb.Helper()
	address, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(err)
	}
	return address
}
