package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// identify listens at a path that the host sees, too, and connects to a server of the
// host's: they say which process each sees at the other end.
func identify(path, server string) {
	err := listenAndConnect(path, server)
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	fmt.Println("it listens")
	time.Sleep(lifetime * time.Second)
}

func listenAndConnect(path, server string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = at("bind", unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	}
	if err == nil {
		err = at("listen", unix.Listen(fd, 10))
	}
	if err != nil {
		return err
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = at("connect", unix.Connect(fd, &unix.SockaddrUnix{Name: server}))
	}
	return err
}

// misreport makes another folder its root, in which what services report to is a
// socket of the host's, and reports.
func misreport(root, text string) {
	err := at("chroot", unix.Chroot(root))
	fd := -1
	if err == nil {
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	}
	if err == nil {
		err = at("connect", unix.Connect(fd, &unix.SockaddrUnix{Name: "/run/.notify"}))
	}
	if err == nil {
		_, err = unix.Write(fd, []byte(text))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	fmt.Println("it has reported")
	time.Sleep(lifetime * time.Second)
}

// lowPort binds a port that takes a right.
func lowPort() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Port: 81, Addr: [4]byte{127, 0, 0, 1}})
	}
	fmt.Println("port 81:", err)
	time.Sleep(lifetime * time.Second)
}
