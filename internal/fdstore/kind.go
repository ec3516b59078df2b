package fdstore

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The reasons why a descriptor is not stored. Each kind would be a way for what a client, or an instance
// that was taken over, has opened.
var (
	errOther  = errors.New("neither memory (memfd_create) nor a connection: it could lead to what a later instance may not reach, and so do epoll, pidfds, devices and namespaces")
	errFile   = errors.New("a file with a name, which whoever passed it could open: the next instance opens it anew, by its path")
	errUnix   = errors.New("a unix socket, in whose queue other descriptors may wait")
	errSocket = errors.New("no connection that came to a TCP socket of the service's own")
)

// memoryDevice is the file system in which all memory of memfd_create(2) is, and no file that has a name:
// the kernel's own mount of tmpfs.
var memoryDevice = sync.OnceValues(func() (uint64, error) {
	memory, err := unix.MemfdCreate("activator", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, os.NewSyscallError("memfd_create", err)
	}
	defer func() { _ = unix.Close(memory) }()
	var stat unix.Stat_t
	err = unix.Fstat(memory, &stat)
	return uint64(stat.Dev), os.NewSyscallError("fstat", err) //nolint:unconvert // 32 bits elsewhere
})

// checkKind is nil for what may be stored. accepted reports whether the socket with an inode of sockfs is
// a connection that came to the service.
func checkKind(fd int, stat *unix.Stat_t, accepted func(inode uint64) bool) error {
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		device, err := memoryDevice()
		if err == nil && device != uint64(stat.Dev) { //nolint:unconvert // 32 bits elsewhere
			err = errFile
		}
		return err
	case unix.S_IFSOCK:
		return checkSocket(fd, stat, accepted)
	}
	return errOther
}

func checkSocket(fd int, stat *unix.Stat_t, accepted func(inode uint64) bool) error {
	domain, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return os.NewSyscallError("getsockopt SO_DOMAIN", err)
	}
	if domain == unix.AF_UNIX {
		return errUnix
	}
	// Not multipath TCP: Landlock does not know it, so that it may be bound anew.
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil || protocol != unix.IPPROTO_TCP || !accepted(stat.Ino) {
		return errSocket
	}
	return nil
}
