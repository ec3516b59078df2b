package output

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenFile opens a file, a FIFO or a terminal that a service's output is appended
// to, and makes the file if there is none. The caller closes it. It never waits (a
// FIFO that nobody reads is refused with ENXIO), and a terminal does not become
// ours (O_NOCTTY).
//
// From the first folder on that belongs neither to root nor to us, no symbolic
// link is followed: the service owns its logs_directory, and a link in it would
// make us append what the service says to any file of the host.
func OpenFile(path string) (*os.File, error) {
	fd, err := openFile(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	// Blocking, as programs expect; so the file must not know the runtime's poller,
	// and NewFile asks only for O_NONBLOCK.
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openFile(path string) (int, error) {
	folder, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(folder) }()
	how := unix.OpenHow{Flags: unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC, Mode: 0o640}
	rest := strings.TrimPrefix(filepath.Clean(path), "/")
	for how.Resolve == 0 {
		part, after, more := strings.Cut(rest, "/")
		if !more {
			return unix.Openat(folder, rest, int(how.Flags), uint32(how.Mode))
		}
		next, err := unix.Openat(folder, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		_ = unix.Close(folder)
		folder, rest = next, after
		var stat unix.Stat_t
		if err := unix.Fstat(folder, &stat); err != nil {
			return -1, err
		}
		if stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
			how.Resolve = unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH
		}
	}
	return unix.Openat2(folder, rest, &how)
}
