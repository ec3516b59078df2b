package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// mislead makes the activator take a socket of the host's for the service's own: target
// becomes a link to it, and the service listens at a decoy whose inode has the same
// number, in a file system that counts for itself.
func mislead(target, victim string) {
	if err := leadAstray(target, victim); err != nil {
		fmt.Fprintln(os.Stderr, "intruder:", err)
		os.Exit(1)
	}
	time.Sleep(lifetime * time.Second)
}

func leadAstray(target, victim string) error {
	var stat unix.Stat_t
	if err := unix.Stat(victim, &stat); err != nil {
		return at("stat "+victim, err)
	}
	const most = 1 << 20
	for range most {
		name := fmt.Sprintf("/tmp/counted-%d", os.Getpid())
		fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
		if err != nil {
			return at("open", err)
		}
		var made unix.Stat_t
		_ = unix.Fstat(fd, &made)
		_, _ = unix.Close(fd), unix.Unlink(name)
		if uint32(made.Ino)+1 == uint32(stat.Ino) {
			break
		}
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: "/tmp/decoy"})
	}
	if err == nil {
		err = unix.Listen(fd, 10)
	}
	var made unix.Stat_t
	if err == nil {
		err = unix.Stat("/tmp/decoy", &made)
	}
	if err != nil {
		return at("decoy", err)
	}
	if uint32(made.Ino) != uint32(stat.Ino) {
		return fmt.Errorf("the decoy has inode %d, not %d", made.Ino, stat.Ino)
	}
	fmt.Println("the decoy stands")
	return at("symlink", unix.Symlink(victim, target))
}
