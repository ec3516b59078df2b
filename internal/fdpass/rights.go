package fdpass

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxFiles is the most descriptors one message carries: SCM_MAX_FD, unix(7).
const MaxFiles = 253

// ErrTruncated says that the kernel cut a message: its data or its descriptors
// were more than the receiver has room for. What did arrive is closed.
var ErrTruncated = errors.New("message truncated")

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
	fds, err := numbers(files)
	if err != nil {
		return fmt.Errorf("send files: %w", err)
	}
	defer runtime.KeepAlive(files)
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("send files: %w", err)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	for len(data) > 0 {
		var n int
		var errno error
		err := raw.Write(func(fd uintptr) bool {
			n, errno = sendmsg(int(fd), data, oob)
			return errno != unix.EAGAIN
		})
		if err = errors.Join(err, os.NewSyscallError("sendmsg", errno)); err != nil {
			return fmt.Errorf("send files: %w", err)
		}
		data, oob = data[n:], nil // a stream may take less; the files went with the first byte
	}
	return nil
}

// ReceiveFiles receives one message (on a stream: what is there) into data,
// and returns its length and the files that came with it, at most most, which
// the caller closes. They have FD_CLOEXEC from birth. With none it is io.EOF
// at the end of conn; ErrTruncated where something was cut.
func ReceiveFiles(conn syscall.Conn, data []byte, most int) (n int, files []*os.File, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, nil, fmt.Errorf("receive files: %w", err)
	}
	var flags int
	var fds []int
	var errno error
	err = raw.Read(func(fd uintptr) bool {
		n, fds, flags, errno = recvmsg(int(fd), data)
		return errno != unix.EAGAIN
	})
	err = errors.Join(err, os.NewSyscallError("recvmsg", errno))
	switch {
	case err != nil:
	case flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0:
		err = ErrTruncated
	case len(fds) > most:
		err = fmt.Errorf("%d in one message, more than %d", len(fds), most)
	case n == 0 && len(fds) == 0 && len(data) > 0:
		return 0, nil, io.EOF
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return 0, nil, fmt.Errorf("receive files: %w", err)
	}
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "passed"))
	}
	return n, files, nil
}

// numbers returns the files' descriptors, valid while files are kept alive and
// nobody closes them. Not Fd(): that would set them blocking.
func numbers(files []*os.File) ([]int, error) {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return nil, err
		}
	}
	return fds, nil
}

func sendmsg(fd int, data, oob []byte) (n int, err error) {
	for {
		n, err = unix.SendmsgN(fd, data, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// recvmsg returns the descriptors also where something else went wrong: they
// are ours by then.
func recvmsg(fd int, data []byte) (n int, fds []int, flags int, err error) {
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	var oobn int
	for {
		n, oobn, flags, _, err = unix.Recvmsg(fd, data, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return 0, nil, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, flags, err
	}
	for i := range messages {
		if passed, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, passed...)
		}
	}
	return n, fds, flags, nil
}
