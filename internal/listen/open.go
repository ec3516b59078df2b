package listen

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// maxBacklog asks for more than any kernel grants: listen(2) cuts it down to
// net.core.somaxconn.
const maxBacklog = 1<<31 - 1

// opened is what one bind makes: the descriptor and, for a path, its node.
type opened struct {
	file  *os.File
	node  *node // nil without a path
	state state
}

// openSpec makes the socket or FIFO of spec, from stock; the caller owns what it
// returns. The thread it runs on should have a umask of 0, see [exactModes].
func openSpec(want spec.Socket, from *stock) (opened, error) {
	if want.Address.Network == spec.FIFO {
		return openFIFO(want)
	}
	if want.Address.Node() != "" {
		return openUnixPath(want, from)
	}
	file, family, err := newSocket(want, from)
	if err != nil {
		return opened{}, err
	}
	err = bindAndListen(file, family, want)
	if err != nil {
		_ = file.Close()
		return opened{}, err
	}
	return opened{file: file, state: stateOf(file)}, nil
}

func bindAndListen(file *os.File, family int, want spec.Socket) error {
	a, o := want.Address, &want.Options
	err := control(file, func(fd int) error {
		sa, err := sockaddr(fd, family, a)
		if err != nil {
			return fail(a, "", err, "")
		}
		err = syscallError("bind", unix.Bind(fd, sa))
		return fail(a, "", err, bindCure(a, o, err))
	})
	if err != nil {
		return err
	}
	return startListening(file, want)
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
		return syscallError("listen", unix.Listen(fd, backlog))
	})
	// TCP looks for a second listener only here when SO_REUSEADDR let both bind.
	return fail(want.Address, "", err, bindCure(want.Address, &want.Options, err))
}

// newSocket makes the unbound socket with all its options. The description is
// blocking, which also keeps the file out of the runtime's poller: that would
// wake us for every client of a running service.
func newSocket(want spec.Socket, from *stock) (*os.File, int, error) {
	a, o := want.Address, &want.Options
	kind := kindOf(a, o, haveIPv6)
	file, err := from.take(want, kind)
	if err != nil {
		return nil, 0, fail(a, "", err, socketCure(a, o, err))
	}
	if err := setOptions(file, &want, sockopt.SetOptions); err != nil {
		_ = file.Close()
		return nil, 0, err
	}
	if want.Seal == spec.ReceiveOnly {
		if err := sendNothing(file); err != nil {
			_ = file.Close()
			return nil, 0, fail(a, "", err, "")
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
		return fail(want.Address, failed.Key, failed.Err, failed.Cure)
	}
	return fail(want.Address, "", err, "")
}

// kindOf says what a is for socket(2): without IPv6 a dual-stack address is
// IPv4 alone.
func kindOf(a spec.Address, o *spec.Options, ipv6 func() bool) spec.Kind {
	kind := spec.Kind{Type: a.Type()}
	four, six := a.Families()
	switch {
	case a.IsUnix():
		kind.Family = unix.AF_UNIX
	case a.Network == spec.VSock:
		kind.Family = unix.AF_VSOCK
	case !six || four && dualStack(a, o) && !ipv6():
		kind.Family = unix.AF_INET
	default:
		kind.Family = unix.AF_INET6
	}
	switch {
	case a.IsTCP() && o.MPTCP:
		kind.Protocol = unix.IPPROTO_MPTCP
	case a.IsTCP():
		kind.Protocol = unix.IPPROTO_TCP
	case a.IsUDP():
		kind.Protocol = unix.IPPROTO_UDP
	}
	return kind
}

// dualStack reports whether a is the wildcard that serves IPv4 and IPv6.
func dualStack(a spec.Address, o *spec.Options) bool {
	return (a.Network == spec.TCP || a.Network == spec.UDP) && !a.IP.IsValid() && o.BindIPv6Only != "ipv6-only"
}

// sockaddr makes the address to bind; fd is asked for the index of a scope.
func sockaddr(fd, family int, a spec.Address) (unix.Sockaddr, error) {
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
	if !a.IP.IsValid() {
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
		return 0, fmt.Errorf("interface %q: %w", name, syscallError("SIOCGIFINDEX", err))
	}
	return req.Uint32(), nil
}

// control is [fd.Control], and errClosed where there is no file any more.
func control(file *os.File, f func(fd int) error) error {
	if file == nil {
		return errClosed
	}
	return fd.Control(file, f)
}
