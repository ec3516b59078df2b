package output

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// OpenFile opens a file, a FIFO or a terminal that a service's output is appended
// to, and makes the file if there is none. The caller closes it. It never waits (a
// FIFO that nobody reads is refused with ENXIO), and a terminal does not become
// ours (O_NOCTTY).
//
// Where somebody else may write no symbolic link is followed: the service owns its
// logs_directory, and a link in it would make us append what the service says to any
// file of the host.
func OpenFile(path string) (*os.File, error) {
	place, err := fd.Walk(path)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	file, err := place.Open(unix.O_WRONLY|unix.O_APPEND|unix.O_CREAT|unix.O_NONBLOCK|unix.O_NOCTTY, 0o640)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	// Blocking, as programs expect; so the file must not know the runtime's poller,
	// and NewFile asks only for O_NONBLOCK.
	if err := unix.SetNonblock(file, false); err != nil {
		_ = unix.Close(file)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(file), path), nil
}
