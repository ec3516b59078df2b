package listen

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// A service can pass a copy of its socket to a client that helps it, over a unix socket. Such a copy
// outlives the service and us.

// silenceCopies sees to it that whoever has a copy of a socket hears no client by it any more: it is shut
// down, and of the internet it drops every packet for good. Only for a socket that no process of a
// service has. Where an ordinary user may attach no filter, a copy of a TCP listener can listen again. And
// it can always keep the port: the next activator is told who has it.
func silenceCopies(file *os.File) {
	_ = control(file, func(fd int) error {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR) // a unix socket for good; TCP's may listen again
		return sockopt.DropPackets(fd)
	})
}
