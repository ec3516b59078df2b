package relay

import (
	"encoding/json"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// One message of the sequenced-packet socket between us and the maker is one
// order or delivery, with its descriptors.

// longestMessage is in bytes; 253 flow sockets are some 1,000 as JSON.
const longestMessage = 8192

func sendMessage(socket int, value any, fds []int) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		_, err = unix.SendmsgN(socket, text, rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

// receiveMessage returns a message and the descriptors that came with it, which
// the caller closes; EMFILE says that not all of them had room.
func receiveMessage(socket int) (text []byte, fds []int, err error) {
	text = make([]byte, longestMessage)
	rights := make([]byte, unix.CmsgSpace(4*maxFiles))
	var n, rn, flags int
	for {
		n, rn, flags, _, err = unix.Recvmsg(socket, text, rights, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return nil, nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rn])
	for i := range messages {
		if passed, err := unix.ParseUnixRights(&messages[i]); err == nil {
			fds = append(fds, passed...)
		}
	}
	switch {
	case err != nil:
	case flags&unix.MSG_CTRUNC != 0:
		err = unix.EMFILE
	case flags&unix.MSG_TRUNC != 0:
		err = unix.EMSGSIZE
	case n == 0:
		err = io.EOF
	}
	if err != nil {
		closeAll(fds)
		return nil, nil, err
	}
	return text[:n], fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
