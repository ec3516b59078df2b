package sockopt

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Key is how the configuration sets an option. An option of IP that has another name in
// IPv6 has two rows with one key: a dual-stack socket needs both.
type Key struct {
	Name string // of [[socket]]; "": set without being asked for

	ask     func(*spec.Socket) ([]byte, error) // what to write; nil: it is not asked for
	needs   string                             // the privilege that EPERM asks for
	relayed bool                               // a relay socket has it too: see SetRelayed
	newer   bool                               // a kernel that has it not does without
}

func (k *Key) needing(privilege string) *Key { k.needs = privilege; return k }
func (k *Key) onRelay() *Key                 { k.relayed = true; return k }

// on is an option that is switched on.
func on(name string, asked func(*spec.Options) bool) *Key {
	return given(name, func(o *spec.Options) (int, bool) { return 1, asked(o) })
}

// number is an option with a value; asked for when that is not 0.
func number(name string, value func(*spec.Options) int) *Key {
	return given(name, func(o *spec.Options) (int, bool) { n := value(o); return n, n != 0 })
}

// given is an option with a value that may be 0.
func given(name string, value func(*spec.Options) (n int, asked bool)) *Key {
	return &Key{Name: name, ask: func(s *spec.Socket) ([]byte, error) {
		if n, asked := value(&s.Options); asked {
			return word(n), nil
		}
		return nil, nil
	}}
}

// text is an option that is a name; asked for when that is not empty.
func text(name string, value func(*spec.Options) string) *Key {
	return &Key{Name: name, ask: func(s *spec.Socket) ([]byte, error) {
		if t := value(&s.Options); t != "" {
			return []byte(t), nil
		}
		return nil, nil
	}}
}

func word(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// Error is of an option that cannot be set.
type Error struct {
	Key  string // of the configuration, or the option's own name
	Err  error
	Cure string // "": unknown
}

func (e *Error) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// SetOptions sets what s asks for on fd, its socket, which is not bound yet. An error is an *Error.
func SetOptions(fd int, s *spec.Socket) error {
	return setAll(fd, s, func(*Key) bool { return true })
}

// SetRelayed sets on fd, the relay socket that a service has in place of that of s, what is about
// the service's own calls: what it may send, and what it is told with each datagram. All else
// is about what the host's socket sends and holds. An error is an *Error.
func SetRelayed(fd int, s *spec.Socket) error {
	return setAll(fd, s, func(k *Key) bool { return k.relayed })
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

func setAll(fd int, s *spec.Socket, these func(*Key) bool) error {
	domain := layersOf(fd).domain
	for i := range Table {
		o := &Table[i]
		if o.Key == nil || !these(o.Key) {
			continue
		}
		value, err := o.Key.ask(s)
		if err == nil && value != nil {
			err = o.set(fd, domain, value)
		}
		if err != nil {
			return &Error{cmp.Or(o.Key.Name, o.Text), err, o.cure(s, err)}
		}
	}
	return nil
}

// set writes an option to an unbound socket that has its level. socket(7), ip(7), ipv6(7),
// tcp(7), unix(7).
func (o *Option) set(fd, domain int, value []byte) error {
	switch {
	case o.Level == unix.IPPROTO_IPV6 && domain == unix.AF_INET:
		return nil
	case o.Level == unix.IPPROTO_IP && domain == unix.AF_INET6:
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil || only != 0 {
			return os.NewSyscallError("getsockopt", err)
		}
	case o.Form == Halved:
		if err := o.write(fd, o.forced(), value); !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	err := o.write(fd, o.Name, value)
	if o.Key.newer && errors.Is(err, unix.ENOPROTOOPT) {
		return nil
	}
	return err
}

func (o *Option) cure(s *spec.Socket, err error) string {
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

// The keys that are more than a value, or of two rows.
var (
	freeBind    = on("free_bind", func(o *spec.Options) bool { return o.FreeBind })
	transparent = on("transparent", func(o *spec.Options) bool { return o.Transparent }).needing("CAP_NET_ADMIN or CAP_NET_RAW")
	packetInfo  = on("pass_packet_info", func(o *spec.Options) bool { return o.PassPacketInfo }).onRelay()
	ipTOS       = given("ip_tos", func(o *spec.Options) (int, bool) { return o.IPTOS, o.IPTOSSet }).needing("CAP_NET_ADMIN")
	ipTTL       = number("ip_ttl", func(o *spec.Options) int { return o.IPTTL })

	// As systemd: else the connections of the last run that sit in TIME_WAIT block
	// the port for a minute.
	reuseAddress = &Key{ask: func(s *spec.Socket) ([]byte, error) { return wordIf(s.Address.IsTCP(), 1), nil }}

	// A relay asks who has sent, and that of the first datagram too, which comes before it.
	passCredentials = &Key{Name: "pass_credentials", ask: func(s *spec.Socket) ([]byte, error) {
		return wordIf(s.Options.PassCredentials || s.Seal == spec.Relayed && s.Address.Network == spec.UnixGram, 1), nil
	}}

	// Before Linux 6.16 it is done without, see listen.CanRefuseRights.
	passRights = &Key{Name: "pass_rights", newer: true, ask: func(s *spec.Socket) ([]byte, error) {
		return wordIf(s.Options.RefuseRights, 0), nil
	}}

	bindIPv6Only = &Key{Name: "bind_ipv6_only", ask: ipv6Only}
)

func wordIf(asked bool, n int) []byte {
	if !asked {
		return nil
	}
	return word(n)
}

// ipv6Only is explicit about the wildcard: net.ipv6.bindv6only shall not
// decide which clients are served.
func ipv6Only(s *spec.Socket) ([]byte, error) {
	a := s.Address
	if !a.IsInternet() {
		return nil, nil
	}
	switch only := s.Options.BindIPv6Only; only {
	case "":
		if !a.IP.IsValid() && (a.Network == spec.TCP || a.Network == spec.UDP) {
			return word(0), nil
		}
		return word(1), nil
	case "both":
		if a.Network == spec.TCP6 || a.Network == spec.UDP6 {
			return nil, fmt.Errorf("%q contradicts %s://, which is IPv6 alone", only, a.Network)
		}
		return word(0), nil
	case "ipv6-only":
		return word(1), nil
	case "default":
		return nil, nil
	default:
		return nil, fmt.Errorf(`%q is none of "default", "both", "ipv6-only"`, only)
	}
}

// stamps is the key of a form of timestamps.
func stamps(form string) *Key {
	return (&Key{Name: "timestamping", ask: func(s *spec.Socket) ([]byte, error) {
		switch asked := s.Options.Timestamping; asked {
		case "", "off", "us", "ns":
			return wordIf(asked == form, 1), nil
		default:
			return nil, fmt.Errorf(`%q is none of "off", "us", "ns"`, asked)
		}
	}}).onRelay()
}
