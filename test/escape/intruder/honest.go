package main

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// honest is a server that sends back what it gets, on sockets that it inherited, that it binds itself
// ("bind"), or on the connection that is its stdin ("stdio"). It serves until it is ended.
func honest(args []string) {
	sockets := inherited()
	switch {
	case len(args) > 0 && args[0] == "bind":
		sockets = bindAll()
	case len(args) > 0 && args[0] == "stdio":
		sendBack(0)
		return
	}
	for name, fd := range sockets {
		if name == "unixgram" || name == "udp4" || name == "udp6" {
			go answerDatagrams(fd)
			continue
		}
		l, err := net.FileListener(os.NewFile(uintptr(fd), name))
		if err != nil {
			fatal(err)
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					fatal(err)
				}
				go func() {
					defer c.Close()
					b := make([]byte, 4096)
					for {
						n, err := c.Read(b)
						if err != nil {
							return
						}
						if _, err := c.Write(b[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
	}
	select {}
}

func fatal(err error) {
	_, _ = os.Stderr.WriteString("intruder: " + err.Error() + "\n")
	os.Exit(1)
}

func answerDatagrams(fd int) {
	b := make([]byte, 4096)
	for {
		n, from, err := unix.Recvfrom(fd, b, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			fatal(err)
		}
		if from != nil {
			_ = unix.Sendto(fd, b[:n], 0, from) // the client may be gone
		}
	}
}

func sendBack(fd int) {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(fd, b)
		if err == unix.EINTR {
			continue
		}
		if n <= 0 || err != nil {
			return
		}
		if _, err := unix.Write(fd, b[:n]); err != nil {
			return
		}
	}
}
