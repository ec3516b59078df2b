package listen

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// control is [fd.Control], and errClosed where there is no file any more.
func control(file *os.File, f func(fd int) error) error {
	if file == nil {
		return errClosed
	}
	return fd.Control(file, f)
}

func pollNow(socket int) int16 {
	ready, _ := fd.Poll(socket, unix.POLLIN|unix.POLLRDHUP, 0)
	return ready
}
