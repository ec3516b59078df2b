package listen

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// errClosed is what every operation on a closed [Socket] ends with.
var errClosed = fs.ErrClosed

// Error is a socket that cannot be opened or mended.
type Error struct {
	Address string // canonical
	Step    string // a system call, an option as in the configuration, or a path
	Err     error
	Cure    string // what is in the way or what to do; may be empty
}

func (e *Error) Error() string {
	text := "listen " + e.Address + ": "
	if e.Step != "" {
		text += e.Step + ": "
	}
	text += e.Err.Error()
	if e.Cure != "" {
		text += ": " + e.Cure
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// wrapError wraps err as an *Error of address a, unless it is one already.
func wrapError(a spec.Address, step string, err error, cure string) error {
	var done *Error
	if err == nil || errors.As(err, &done) {
		return err
	}
	return &Error{Address: a.String(), Step: step, Err: err, Cure: cure}
}

// OccupiedError is a path at which something stands that is not ours to
// remove.
type OccupiedError struct {
	Path string
	What string // "a regular file", "a live socket of pid 12 (nginx)"
	Live bool   // a process serves it
}

func (e *OccupiedError) Error() string {
	if e.Live {
		return fmt.Sprintf("%s: %s stands there; %s", e.Path, e.What, e.Advice())
	}
	return fmt.Sprintf("%s: %s stands there and is not removed", e.Path, e.What)
}

// Advice is what helps; "" when the user has to look first.
func (e *OccupiedError) Advice() string {
	if e.Live {
		return "stop it first"
	}
	return ""
}

// Is lets errors.Is find what bind(2) would have said.
func (e *OccupiedError) Is(target error) bool {
	return target == error(unix.EADDRINUSE) || target == fs.ErrExist
}

// bindCure says what the user can do about a bind that failed with err.
func bindCure(a spec.Address, o *spec.Options, err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return describeHolder(a)
	case errors.Is(err, unix.EACCES) && a.IsInternet():
		return fmt.Sprintf("a port below %s is for CAP_NET_BIND_SERVICE; or allow it to everybody: sysctl net.ipv4.ip_unprivileged_port_start=%d",
			unprivilegedPort(), a.Port)
	case errors.Is(err, unix.EACCES) && a.Network == spec.VSock:
		return "a port below 1024 is for CAP_NET_BIND_SERVICE"
	case errors.Is(err, unix.EADDRNOTAVAIL) && a.IP.Is6() && a.IP.IsLinkLocalUnicast() && a.IP.Zone() == "":
		return fmt.Sprintf("a link-local address needs its interface, as in \"[%s%%eth0]\"", a.IP)
	case errors.Is(err, unix.EINVAL) && a.IP.Is6() && a.IP.IsLinkLocalUnicast():
		return fmt.Sprintf("a link-local address needs its interface, as in \"[%s%%eth0]\"", a.IP.WithZone(""))
	case errors.Is(err, unix.EADDRNOTAVAIL) && a.IsInternet() && !o.FreeBind:
		return "no interface has this address; free_bind = true binds it before one has"
	case errors.Is(err, unix.EADDRNOTAVAIL) && a.Network == spec.VSock:
		return "this is not the CID of this machine; leave it empty for any"
	}
	return ""
}

func unprivilegedPort() string {
	return cmp.Or(proc.ReadSysctl("net.ipv4.ip_unprivileged_port_start"), "1024")
}

func socketCure(a spec.Address, o *spec.Options, err error) string {
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT) && a.Network == spec.VSock:
		return "this kernel has no vsock; modprobe vsock"
	case errors.Is(err, unix.EAFNOSUPPORT):
		return "this kernel has no IPv6, or it is switched off by ipv6.disable=1"
	case o.MPTCP && (errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.ENOPROTOOPT)):
		return "mptcp needs a kernel with CONFIG_MPTCP and sysctl net.mptcp.enabled=1"
	}
	return ""
}
