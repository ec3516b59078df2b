package main

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// smuggle is a service with a descriptor store. Its first instance stores what a client has passed to it,
// its own sockets, and a socket in whose queue they wait; the next one tells its client what it has been given, and sends
// the text by every socket of datagrams among that.
func smuggle(text string) {
	m := &mission{sockets: inherited(), control: -1}
	client, err := m.accepted("unix")
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	m.control = client
	listener, _ := m.socket("unix")
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	if len(names) > 1 {
		for fd := 4; fd < 3+len(names); fd++ {
			for _, one := range append(passedIn(fd), fd) {
				_ = unix.Sendto(one, []byte(text+"\n"), 0, nil) // of what is connected already
			}
		}
		_, _ = unix.Write(client, []byte(strings.Join(names[1:], ",")+"\n"))
		return
	}
	if _, err := m.line(); err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	passed := m.rights
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err == nil {
		err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(append(passed, listener)...), nil, 0)
	}
	memory, _ := unix.MemfdCreate("state", 0)
	for name, fd := range map[string]int{"passed": passed[0], "file": passed[1], "own": listener, "queue": pair[1], "client": client, "memory": memory} {
		if err == nil {
			err = keep(name, fd)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
	}
	_, _ = unix.Write(client, []byte("stored\n"))
}

// keep stores one, FDSTORE=1 of sd_notify(3).
func keep(name string, fd int) error {
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return at("socket", err)
	}
	defer func() { _ = unix.Close(socket) }()
	if err := unix.Connect(socket, &unix.SockaddrUnix{Name: os.Getenv("NOTIFY_SOCKET")}); err != nil {
		return at("connect", err)
	}
	return at("sendmsg", unix.Sendmsg(socket, []byte("FDSTORE=1\nFDNAME="+name), unix.UnixRights(fd), nil, 0))
}

// passedIn are the descriptors in a socket's queue.
func passedIn(fd int) (all []int) {
	oob := make([]byte, 256)
	_, oobn, _, _, err := unix.Recvmsg(fd, make([]byte, 16), oob, unix.MSG_DONTWAIT)
	if err != nil {
		return nil
	}
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		all = append(all, fds...)
	}
	return all
}
