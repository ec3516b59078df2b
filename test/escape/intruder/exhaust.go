package main

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// exhaust is a service that takes all it gets of what its user has one number of, tells its client how much that is, and keeps it
// until the client goes. most bounds it.
func exhaust(what string, most int) {
	m := &mission{sockets: inherited(), control: -1}
	client, err := m.accepted("unix")
	if err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	take := map[string]func() error{
		"inotify":   takeInstance,
		"watches":   takeWatch,
		"flight":    takeFlight,
		"processes": takeProcess,
	}[what]
	n := 0
	for n < most && err == nil {
		if err = take(); err == nil {
			n++
		}
	}
	for range min(10, len(children)) { // for our own runtime
		_ = unix.Kill(children[0], unix.SIGKILL)
		_, _ = wait(children[0])
		children = children[1:]
	}
	fmt.Fprintln(os.Stderr, n, "taken, then:", err)
	_, _ = unix.Write(client, fmt.Appendln(nil, n))
	_, _ = unix.Read(client, make([]byte, 1))
}

func takeInstance() error {
	_, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	return err
}

var instance = -1

// takeWatch watches a folder that has not been watched before.
func takeWatch() (err error) {
	if instance < 0 {
		if instance, err = unix.InotifyInit1(unix.IN_CLOEXEC); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "watch")
	if err == nil {
		_, err = unix.InotifyAddWatch(instance, dir, unix.IN_CREATE)
	}
	return err
}

var pair [2]int

// takeFlight puts a descriptor in flight, as often as its own hard limit lets it.
func takeFlight() (err error) {
	if pair[0] == 0 {
		var limit unix.Rlimit
		_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
		limit.Cur = limit.Max
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	}
	for range 2 {
		if pair[0] != 0 {
			if err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(2), nil, unix.MSG_DONTWAIT); err != unix.EAGAIN {
				return err
			}
		}
		if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); err != nil { // that one is full
			return err
		}
	}
	return err
}

var children []int

func takeProcess() error {
	pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "100"}, &syscall.ProcAttr{})
	if err == nil {
		children = append(children, pid)
	}
	return err
}
