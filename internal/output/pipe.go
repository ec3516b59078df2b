package output

import (
	"os"

	"golang.org/x/sys/unix"
)

// OpenPipe returns both ends of a new pipe for a service's output: ours to read
// through the runtime's poller, and the child's, which blocks when it is full,
// as programs expect of their stdout. The two ends share nothing.
func OpenPipe() (ours, child *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, os.NewSyscallError("pipe2", err)
	}
	// Before NewFile: that is what tells it to use the poller.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fds[0]), "output"), os.NewFile(uintptr(fds[1]), "output"), nil
}
