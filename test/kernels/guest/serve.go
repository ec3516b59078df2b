package main

import (
	"io"
	"net"
	"os"
)

// serve answers every line and datagram with itself, at addresses of its own
// choice: port 81 of TCP and UDP, and a unix socket.
func serve() error {
	ended := make(chan error)
	for _, network := range []string{"tcp4", "unix"} {
		l, err := net.Listen(network, map[string]string{"tcp4": ":81", "unix": "/tmp/served"}[network])
		if err != nil {
			return err
		}
		go func() { ended <- echoStreams(l) }()
	}
	c, err := net.ListenPacket("udp4", ":81")
	if err != nil {
		return err
	}
	go func() { ended <- echoDatagrams(c) }()
	return <-ended
}

func echoStreams(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func echoDatagrams(c net.PacketConn) error {
	buffer := make([]byte, os.Getpagesize())
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo(buffer[:n], from); err != nil {
			return err
		}
	}
}
