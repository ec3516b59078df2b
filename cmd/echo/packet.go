package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
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
	err := fd.Control(f, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		_ = f.Close()
		return nil, os.NewSyscallError("setsockopt SO_PASSCRED", err)
	}
	return &packetConn{f}, nil
}

func (c *packetConn) String() string { return c.file.Name() }

func (c *packetConn) Close() error { return c.file.Close() }

func (c *packetConn) echo() error {
	buffer := make([]byte, maxDatagram)
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred)) // no room for descriptors: the kernel drops them
	for {
		var n, oobn, flags int
		err := fd.Read(c.file, func(fd int) (err error) {
			n, oobn, flags, _, err = unix.Recvmsg(fd, buffer, oob, unix.MSG_CMSG_CLOEXEC)
			return err
		})
		switch {
		case err != nil:
			return os.NewSyscallError("recvmsg", err)
		case n == 0 && oobn == 0:
			return nil // Close sends our end of file: nobody else holds an accepted connection
		case flags&unix.MSG_TRUNC != 0:
			return fmt.Errorf("a record of more than %d bytes", maxDatagram)
		}
		err = fd.Write(c.file, func(fd int) error { return unix.Sendmsg(fd, buffer[:n], nil, nil, unix.MSG_NOSIGNAL) })
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}
