package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxDatagram is the longest datagram or record that is answered, in bytes.
// Longer ones, which only unix sockets have, are never answered cut.
const maxDatagram = 64 << 10

// packetConn is a SEQPACKET connection: records in, the same records out.
type packetConn struct{ file *os.File }

// newPacketConn takes f. Recvmsg returns 0 for an empty record and for the end
// of file alike; with SO_PASSCRED a record, also an empty one, comes with the
// sender's credentials and the end of file without.
func newPacketConn(f *os.File) (connection, error) {
	raw, err := f.SyscallConn()
	var errno error
	if err == nil {
		err = raw.Control(func(fd uintptr) { errno = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	}
	if err = errors.Join(err, os.NewSyscallError("setsockopt SO_PASSCRED", errno)); err != nil {
		_ = f.Close()
		return nil, err
	}
	return &packetConn{f}, nil
}

func (c *packetConn) String() string { return c.file.Name() }

func (c *packetConn) Close() error { return c.file.Close() }

func (c *packetConn) echo() error {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	buffer := make([]byte, maxDatagram)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)) // no room for descriptors: the kernel drops them
	for {
		var n, oobn, flags int
		var errno error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, flags, _, errno = unix.Recvmsg(int(fd), buffer, oob, unix.MSG_CMSG_CLOEXEC)
			return errno != unix.EAGAIN
		})
		switch {
		case err != nil || errno != nil:
			return errors.Join(err, os.NewSyscallError("recvmsg", errno))
		case n == 0 && oobn == 0:
			return nil // Close sends our end of file: nobody else holds an accepted connection
		case flags&unix.MSG_TRUNC != 0:
			return fmt.Errorf("a record of more than %d bytes", maxDatagram)
		}
		err = raw.Write(func(fd uintptr) bool {
			_, errno = unix.SendmsgN(int(fd), buffer[:n], nil, nil, unix.MSG_NOSIGNAL)
			return errno != unix.EAGAIN
		})
		if err = errors.Join(err, os.NewSyscallError("sendmsg", errno)); err != nil {
			return err
		}
	}
}
