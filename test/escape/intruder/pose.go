package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// echo answers each datagram with itself.
func echo() {
	const inherited = 3
	b := make([]byte, 1000)
	for {
		n, from, err := unix.Recvfrom(inherited, b, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, "intruder:", at("recvfrom", err))
			os.Exit(1)
		}
		if from != nil {
			err = unix.Sendto(inherited, b[:n], 0, from)
		}
		fmt.Println("answered", from != nil, err)
	}
}

// pose is a client in namespaces of its own, whose name is that of another client outside.
// A name that begins with a slash and ends in ".link" is replaced by a link to that
// without ".link" when it has sent. It waits so many seconds for an answer.
func pose(dir, name, server, text, wait string) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err == nil && dir != "" {
		err = at("mount", unix.Mount("pose", dir, "tmpfs", 0, ""))
	}
	if err == nil {
		err = at("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: name}))
	}
	if victim, ok := strings.CutSuffix(name, ".link"); err == nil && ok {
		if err = at("unlink", unix.Unlink(name)); err == nil {
			err = at("symlink", unix.Symlink(victim, name))
		}
	}
	if err == nil {
		err = at("sendto", unix.Sendto(fd, []byte(text), 0, &unix.SockaddrUnix{Name: server}))
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	seconds, err := strconv.Atoi(wait)
	if err == nil {
		err = readable(fd, seconds)
	}
	switch {
	case err != nil:
		fmt.Println("nothing", err)
	default:
		b := make([]byte, 1000)
		n, _, err := unix.Recvfrom(fd, b, 0)
		fmt.Println("answered", string(b[:n]), err)
	}
}
