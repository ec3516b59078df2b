package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bindAll is for a service that inherits nothing: it binds these, and gets the
// host's sockets in answer.
func bindAll() map[string]int {
	found := make(map[string]int)
	for _, s := range []struct {
		name         string
		domain, kind int
		address      unix.Sockaddr
	}{
		{"tcp4", unix.AF_INET, unix.SOCK_STREAM, &unix.SockaddrInet4{Port: 81, Addr: [4]byte{127, 0, 0, 1}}},
		{"udp4", unix.AF_INET, unix.SOCK_DGRAM, &unix.SockaddrInet4{Port: 81, Addr: [4]byte{127, 0, 0, 1}}},
		{"tcp6", unix.AF_INET6, unix.SOCK_STREAM, &unix.SockaddrInet6{Port: 82}},
		{"udp6", unix.AF_INET6, unix.SOCK_DGRAM, &unix.SockaddrInet6{Port: 82}},
		{"unix", unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "/tmp/s"}},
		{"unixgram", unix.AF_UNIX, unix.SOCK_DGRAM, &unix.SockaddrUnix{Name: "/tmp/g"}},
	} {
		fd, err := unix.Socket(s.domain, s.kind, 0)
		if err == nil {
			err = unix.Bind(fd, s.address)
		}
		if err == nil && s.kind == unix.SOCK_STREAM {
			err = unix.Listen(fd, unix.SOMAXCONN)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "intruder:", s.name, err)
			os.Exit(1)
		}
		found[s.name] = fd
	}
	return found
}
