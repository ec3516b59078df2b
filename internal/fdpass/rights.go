package fdpass

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// MaxFiles is the most descriptors one message carries: SCM_MAX_FD, unix(7).
const MaxFiles = 253

// EncodeRights is the control message with which sendmsg(2) sends descriptors.
func EncodeRights(fds ...int) []byte { return unix.UnixRights(fds...) }

// RightsSpace is the room that recvmsg(2) needs for the control message of n descriptors.
func RightsSpace(n int) int { return unix.CmsgSpace(4 * n) }

// DecodeRights returns the descriptors in the control messages of a recvmsg(2), for the caller to close.
func DecodeRights(messages []unix.SocketControlMessage) (fds []int) {
	for i := range messages {
		if some, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, some...)
		}
	}
	return fds
}

// SendFiles sends data, at least one byte, and with its first byte the files
// over conn, a *net.UnixConn or a pollable or blocking *os.File of a unix
// socket. The files are lent for the call; the receiver's descriptors share
// their open file descriptions.
func SendFiles(conn syscall.Conn, data []byte, files []*os.File) error {
	if len(data) == 0 {
		return errors.New("send files: no data to carry them (unix(7))")
	}
	if len(files) > MaxFiles {
		return fmt.Errorf("send files: %d in one message, more than %d", len(files), MaxFiles)
	}
	fds, err := numbersOf(files)
	if err != nil {
		return fmt.Errorf("send files: %w", err)
	}
	defer runtime.KeepAlive(files)
	for len(data) > 0 {
		err := fd.Write(conn, func(socket int) error {
			n, err := SendMessage(socket, data, fds...)
			if err == nil {
				data, fds = data[n:], nil // a stream may take less; the files went with the first byte
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("send files: %w", err)
		}
	}
	return nil
}

// numbersOf returns the files' descriptors, valid while files are kept alive and
// not closed.
func numbersOf(files []*os.File) ([]int, error) {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		err := fd.Control(f, func(fd int) error {
			fds = append(fds, fd)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return fds, nil
}

// SendMessage is sendmsg(2) of data and descriptors, which are lent. It raises no SIGPIPE.
func SendMessage(socket int, data []byte, fds ...int) (n int, err error) {
	var rights []byte
	if len(fds) > 0 {
		rights = EncodeRights(fds...)
	}
	err = fd.RetryEINTR(func() (err error) {
		n, err = unix.SendmsgN(socket, data, rights, nil, unix.MSG_NOSIGNAL)
		return err
	})
	return n, os.NewSyscallError("sendmsg", err)
}

// Receiver receives messages with one descriptor each, at most. It allocates nothing. Its zero value can be used.
type Receiver struct {
	header unix.Msghdr
	data   unix.Iovec
	rights struct { // CMSG_SPACE(sizeof(int)) on 64 bits, cmsg(3)
		unix.Cmsghdr
		fd, _ int32
	}
}

// Receive is recvmsg(2). It returns the descriptor too, for the caller to close, and -1 if
// none came, or there was none free for it. What comes beside it is closed.
func (r *Receiver) Receive(socket int, data []byte) (n, passed int, err error) {
	r.data.Base = unsafe.SliceData(data)
	r.data.SetLen(len(data))
	r.header.Iov = &r.data
	r.header.SetIovlen(1)
	r.header.Control = (*byte)(unsafe.Pointer(&r.rights))
	err = fd.RetryEINTR(func() error {
		r.header.SetControllen(unix.CmsgLen(4)) // room for one: the kernel closes more
		size, _, errno := unix.Syscall(unix.SYS_RECVMSG, uintptr(socket), uintptr(unsafe.Pointer(&r.header)), unix.MSG_CMSG_CLOEXEC)
		if errno != 0 {
			return errno
		}
		n = int(size)
		return nil
	})
	switch {
	case err != nil:
		return 0, -1, os.NewSyscallError("recvmsg", err)
	case int(r.header.Controllen) < unix.CmsgLen(4) || r.rights.Type != unix.SCM_RIGHTS:
		return n, -1, nil
	}
	return n, int(r.rights.fd), nil
}
