package main

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Buffers grow with what a client sends: most send a line.
const (
	firstBuffer = 4 << 10
	largeBuffer = 256 << 10
)

// streamConn is a TCP or unix connection.
type streamConn struct {
	conn  net.Conn // *net.TCPConn or *net.UnixConn, bare: a wrapper would not splice
	local string
}

func (c *streamConn) String() string {
	return c.local + " from " + c.conn.RemoteAddr().String()
}

func (c *streamConn) Close() error { return c.conn.Close() }

func (c *streamConn) echo() error {
	bulk, err := echoBuffered(c.conn)
	if bulk && err == nil {
		// Io.Copy splices TCP through a pipe. That takes two descriptors more,
		// so only those that send much have it.
		_, err = io.Copy(c.conn, c.conn)
	}
	if err != nil {
		return err
	}
	return c.conn.(interface{ CloseWrite() error }).CloseWrite()
}

// echoBuffered copies until end of file. For TCP it stops, and says so, when a
// client sends more than a buffer at a time.
func echoBuffered(c io.ReadWriter) (bulk bool, err error) {
	_, splices := c.(*net.TCPConn)
	buffer := make([]byte, firstBuffer)
	for {
		n, err := c.Read(buffer)
		if n > 0 {
			if _, err := c.Write(buffer[:n]); err != nil {
				return false, err
			}
		}
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		case n < len(buffer):
		case splices && len(buffer) > firstBuffer:
			return true, nil
		case len(buffer) < largeBuffer:
			buffer = make([]byte, 8*len(buffer))
		}
	}
}

// vsockConn is a stream package net does not know.
type vsockConn struct{ file *os.File }

func newVsockConn(f *os.File) (connection, error) { return &vsockConn{f}, nil }

func (c *vsockConn) String() string { return c.file.Name() }

func (c *vsockConn) Close() error { return c.file.Close() }

func (c *vsockConn) echo() error {
	if _, err := echoBuffered(c.file); err != nil {
		return err
	}
	err := fd.Control(c.file, func(fd int) error { return unix.Shutdown(fd, unix.SHUT_WR) })
	return os.NewSyscallError("shutdown", err)
}
