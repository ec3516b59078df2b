package sockopt

import (
	"cmp"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Error is of an option that cannot be set.
type Error struct {
	Key  string // of the configuration, or the option's own name
	Err  error
	Cure string // "": unknown
}

func (e *Error) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// SetOptions sets what s asks for on fd, its socket, which is not bound yet. An error is an *Error.
func SetOptions(fd int, s *spec.Socket, password Password) error {
	return setAll(fd, s, password, func(*Key) bool { return true })
}

// SetRelayed sets on fd, the relay socket that a service has in place of that of s, what is about
// the service's own calls: what it may send, and what it is told with each datagram. All else
// is about what the host's socket sends and holds. An error is an *Error.
func SetRelayed(fd int, s *spec.Socket) error {
	return setAll(fd, s, Password{}, func(k *Key) bool { return k.relayed })
}

// AddressOnly lets fd be bound to an address with port 0, and take no port: for a look whether
// the machine has the address. IP_BIND_ADDRESS_NO_PORT of ip(7).
func AddressOnly(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
}

// ResetOnClose has the last close of a connection reset it: its client sees no end of an answer.
// SO_LINGER of socket(7).
func ResetOnClose(fd int) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
}

func setAll(fd int, s *spec.Socket, password Password, these func(*Key) bool) error {
	domain := layersOf(fd).domain
	for i := range Table {
		o := &Table[i]
		if o.Key == nil || !these(o.Key) {
			continue
		}
		value, err := o.Key.ask(s)
		if err == nil && value != nil {
			err = o.setValue(fd, domain, password, value)
		}
		if err != nil {
			return &Error{cmp.Or(o.Key.Name, o.Text), err, o.findCure(s, err)}
		}
	}
	return nil
}

// setValue writes an option to an unbound socket that has its level. socket(7), ip(7), ipv6(7),
// tcp(7), unix(7).
func (o *Option) setValue(fd, domain int, password Password, value []byte) error {
	switch {
	case o.Level == unix.IPPROTO_IPV6 && domain == unix.AF_INET:
		return nil
	case o.Level == unix.IPPROTO_IP && domain == unix.AF_INET6:
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil || only != 0 {
			return os.NewSyscallError("getsockopt", err)
		}
	case o.Form == Halved:
		if err := o.writeWith(password, fd, o.forcedName(), value); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	err := o.writeWith(password, fd, o.Name, value)
	if o.Key.newer && errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return err
}

func (o *Option) findCure(s *spec.Socket, err error) string {
	switch {
	case errors.Is(err, unix.EPERM) && o.Key.needs != "":
		return "needs " + o.Key.needs
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("there is no interface %q", s.Options.BindToDevice)
	case o.Name == unix.TCP_CONGESTION && errors.Is(err, unix.ENOENT):
		return fmt.Sprintf("this kernel has no %q; sysctl net.ipv4.tcp_available_congestion_control lists what it has", s.Options.TCPCongestion)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOPROTOOPT):
		return "this kind of socket has no such option"
	}
	return ""
}
