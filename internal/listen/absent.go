package listen

import (
	"net/netip"

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
	return a.IP == netip.IPv6Loopback() && off && !binds6(a.IP)
}

// binds6 tries whether this machine has an address.
func binds6(ip netip.Addr) bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Bind(fd, &unix.SockaddrInet6{Addr: ip.As16()}) == nil
}
