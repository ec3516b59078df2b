package usernotif

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/sockopt"
)

// longestOption is the longest value of what is handed over: a time of 16 bytes, or a name, of which the
// kernel reads no more.
const longestOption = 16

// copyOption copies a value of setsockopt(2), without what the kernel does not read: of a number, and of a short
// name, what is behind it may not even be there.
func copyOption(thread uint32, at uint64, size int32) (value []byte, err error) {
	if size < 0 {
		return nil, unix.EINVAL
	}
	for _, most := range []int32{longestOption, 8, 4} {
		if value, err = copyAddress(thread, at, uint64(min(size, most))); err == nil {
			break
		}
	}
	return value, err
}

// setOption sets an option that those who wait at a listener of the host's would inherit: on that it only
// seems to work. It is set by our copy of the descriptor, with the ids of the service, which may have
// put another socket there meanwhile.
func (s *Supervisor) setOption(r *request) verdict {
	if isIdleTCP(r) && !s.isInNetwork(r) {
		return verdict{}
	}
	set := func() error { return sockopt.SetFor(r.fd, int(int32(r.Args[1])), int(int32(r.Args[2])), r.sockaddr) }
	if os.Geteuid() != 0 {
		return verdict{errno: errnoOf(set())} // our rights are the service's
	}
	ids, err := behalf.IDsOf(int(r.PID))
	if err != nil || !s.isValid(r.ID) {
		return verdict{errno: errnoOf(err)}
	}
	return verdict{errno: errnoOf(ids.Do(set))}
}

// isIdleTCP reports whether a socket of TCP is connected to nobody: it listens, or could again.
func isIdleTCP(r *request) bool {
	kind, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM || r.domain != unix.AF_INET && r.domain != unix.AF_INET6 {
		return false
	}
	_, err = unix.Getpeername(r.fd)
	return err != nil
}
