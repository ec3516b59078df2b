package sockopt

import "golang.org/x/sys/unix"

// SetReuseAddress sets SO_REUSEADDR, which no internet socket refuses.
func SetReuseAddress(fd int, on bool) { setFlag(fd, unix.SO_REUSEADDR, on) }

// SetReusePort sets SO_REUSEPORT, likewise.
func SetReusePort(fd int, on bool) { setFlag(fd, unix.SO_REUSEPORT, on) }

func setFlag(fd, name int, on bool) {
	value := 0
	if on {
		value = 1
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, name, value)
}

// DropPackets has a socket drop every packet for good, whoever holds it. socket(7).
func DropPackets(fd int) error {
	nothing := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &nothing})
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1)
	}
	return err
}
