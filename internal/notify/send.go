package notify

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

const variable = "NOTIFY_SOCKET"

// SendState tells state, lines of NAME=VALUE as in sd_notify(3), to the socket that
// NOTIFY_SOCKET names: "/path" or "@abstract". Where it is not set there is no
// manager, and SendState does nothing. It may block while the manager's queue is full.
func SendState(state string) error {
	address := os.Getenv(variable)
	if address == "" {
		return nil
	}
	if err := sendTo(address, state); err != nil {
		return fmt.Errorf("%s=%s: %w", variable, address, err)
	}
	return nil
}

func sendTo(address, state string) error {
	if !strings.HasPrefix(address, "/") && !strings.HasPrefix(address, "@") {
		return fmt.Errorf("is neither a path from / nor an @abstract name")
	}
	socket, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(socket) }()
	err = fd.RetryEINTR(func() error {
		return unix.Sendto(socket, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: address})
	})
	return os.NewSyscallError("sendto", err)
}
