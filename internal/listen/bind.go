package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// maxBacklog asks for more than any kernel grants: listen(2) cuts it down to
// net.core.somaxconn.
const maxBacklog = 1<<31 - 1

// boundSocket is what one bind makes: the descriptor and, for a path, its node.
type boundSocket struct {
	file        *os.File
	node        *node    // nil without a path
	placeholder *os.File // nil but of TCP
	fifo        *os.File // open for writing too, and never lent; nil but of a FIFO
	state       socketState
}

// startListening sets the backlog, also of a socket that listens already.
func startListening(file *os.File, want spec.Socket) error {
	if !want.Address.IsStream() {
		return nil
	}
	backlog := want.Options.Backlog
	if backlog <= 0 {
		backlog = maxBacklog
	}
	err := control(file, func(fd int) error {
		return os.NewSyscallError("listen", unix.Listen(fd, backlog))
	})
	// TCP looks for a second listener only here when SO_REUSEADDR let both bind.
	return wrapError(want.Address, "", err, bindCure(want.Address, &want.Options, err))
}

// newSocket makes the unbound socket with all its options. The description is
// blocking, which also keeps the file out of the runtime's poller: that would
// wake us for every client of a running service.
func newSocket(want spec.Socket, from *pool) (*os.File, int, error) {
	a, o := want.Address, &want.Options
	kind := kindOf(&want, haveIPv6)
	file, err := from.takeSocket(want, kind)
	if err != nil {
		return nil, 0, wrapError(a, "", err, socketCure(a, o, err))
	}
	if err := setOptions(file, &want, func(fd int, want *spec.Socket) error { return sockopt.SetOptions(fd, want, from.password(*want)) }); err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	if want.Seal == spec.ReceiveOnly {
		if err := sendNothing(file); err != nil {
			_ = file.Close()
			return nil, 0, wrapError(a, "", err, "")
		}
	}
	return file, kind.Family, nil
}

// setOptions sets what want asks for by one of the functions of the table; an error names
// the key.
func setOptions(file *os.File, want *spec.Socket, set func(int, *spec.Socket) error) error {
	err := control(file, func(fd int) error { return set(fd, want) })
	var failed *sockopt.Error
	if errors.As(err, &failed) {
		return wrapError(want.Address, failed.Key, failed.Err, failed.Cure)
	}
	return wrapError(want.Address, "", err, "")
}

// makeSockaddr makes the address to bind; fd is asked for the index of a scope.
func makeSockaddr(fd, family int, a spec.Address) (unix.Sockaddr, error) {
	switch family {
	case unix.AF_UNIX:
		return &unix.SockaddrUnix{Name: a.Path}, nil
	case unix.AF_VSOCK:
		return &unix.SockaddrVM{CID: a.CID, Port: a.Port}, nil
	case unix.AF_INET:
		sa := &unix.SockaddrInet4{Port: int(a.Port)}
		if a.IP.IsValid() {
			sa.Addr = a.IP.As4()
		}
		return sa, nil
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port)}
	switch {
	case a.Network == spec.UDP4: // mapped
		sa.Addr = netip.IPv4Unspecified().As16()
		return sa, nil
	case !a.IP.IsValid():
		return sa, nil
	}
	sa.Addr = a.IP.As16()
	if zone := a.IP.Zone(); zone != "" {
		index, err := interfaceIndex(fd, zone)
		if err != nil {
			return nil, err
		}
		sa.ZoneId = index
	}
	return sa, nil
}

// interfaceIndex looks up an interface by name or takes its number. netdevice(7).
func interfaceIndex(fd int, name string) (uint32, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return uint32(n), nil
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req)
	}
	if errors.Is(err, unix.ENODEV) {
		return 0, fmt.Errorf("interface %q: %w", name, unix.ENODEV)
	}
	if err != nil {
		return 0, fmt.Errorf("interface %q: %w", name, os.NewSyscallError("SIOCGIFINDEX", err))
	}
	return req.Uint32(), nil
}
