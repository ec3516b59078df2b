package listen

import (
	"errors"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// IsAbsent reports whether a is an address of IPv6 on a machine that has none, and so one
// that no client can ever come to: the kernel has no IPv6, or is booted with
// ipv6.disable=1; or a is ::1 and lo has no IPv6, as in a container of Docker's. The
// wildcard without a six is IPv4's there.
func IsAbsent(a spec.Address) bool {
	switch {
	case a.Network == spec.TCP6 || a.Network == spec.UDP6:
		return !haveIPv6()
	case !a.IsInternet() || !a.IP.Is6() || a.IP.Is4In6():
		return false
	case !haveIPv6():
		return true
	}
	off := proc.ReadSysctl("net.ipv6.conf.lo.disable_ipv6") == "1"
	binds := func(fd int) error { return unix.Bind(fd, &unix.SockaddrInet6{Addr: a.IP.As16()}) }
	return a.IP == netip.IPv6Loopback() && off && trySocket(unix.AF_INET6, unix.SOCK_DGRAM, binds) != nil
}

// trySocket makes a socket and calls f with it, which may be nil.
func trySocket(family, kind int, f func(fd int) error) error {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if f == nil {
		return nil
	}
	return f(fd)
}

// kindOf says what s is for socket(2): without IPv6 a dual-stack address is
// IPv4 alone.
func kindOf(s *spec.Socket, ipv6 func() bool) spec.Kind {
	a, o := s.Address, &s.Options
	kind := spec.Kind{Type: a.Type()}
	four, six := a.Families()
	switch {
	case a.IsUnix():
		kind.Family = unix.AF_UNIX
	case a.Network == spec.VSock:
		kind.Family = unix.AF_VSOCK
	case s.Mapped:
		kind.Family = unix.AF_INET6
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

// haveIPv6 reports whether this kernel has IPv6; booted with ipv6.disable=1 it
// has not.
var haveIPv6 = sync.OnceValue(func() bool {
	return !errors.Is(trySocket(unix.AF_INET6, unix.SOCK_DGRAM, nil), unix.EAFNOSUPPORT)
})
