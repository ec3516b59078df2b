package listen

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// option is one key of the configuration that becomes a socket option.
type option struct {
	key    string
	wanted func(o *spec.Options) bool
	set    func(fd, family int, o *spec.Options) error
	needs  string // the privilege that EPERM asks for
}

// on is an option that is switched on.
func on(key string, wanted func(*spec.Options) bool, level, name int, needs string) option {
	return option{key, wanted, func(fd, _ int, _ *spec.Options) error {
		return setInt(fd, level, name, 1)
	}, needs}
}

// number is an option with a value; wanted when that is not 0.
func number(key string, value func(*spec.Options) int, level, name int, needs string) option {
	return option{key, func(o *spec.Options) bool { return value(o) != 0 }, func(fd, _ int, o *spec.Options) error {
		return setInt(fd, level, name, value(o))
	}, needs}
}

// perFamily is an option of IP that has another name in IPv6. A dual-stack
// socket needs both.
func perFamily(key string, wanted func(*spec.Options) bool, value func(*spec.Options) int, v4, v6 int, needs string) option {
	return option{key, wanted, func(fd, family int, o *spec.Options) error {
		if family == unix.AF_INET {
			return setInt(fd, unix.IPPROTO_IP, v4, value(o))
		}
		if err := setInt(fd, unix.IPPROTO_IPV6, v6, value(o)); err != nil {
			return err
		}
		only, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil || only != 0 {
			return syscallError("getsockopt", err)
		}
		return setInt(fd, unix.IPPROTO_IP, v4, value(o))
	}, needs}
}

func one(*spec.Options) int { return 1 }

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// options are set before bind(2), in this order. socket(7), ip(7), ipv6(7),
// tcp(7), unix(7).
var options = []option{
	{"bind_to_device", func(o *spec.Options) bool { return o.BindToDevice != "" }, func(fd, _ int, o *spec.Options) error {
		return syscallError("setsockopt", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, o.BindToDevice))
	}, "CAP_NET_RAW"},
	on("reuse_port", func(o *spec.Options) bool { return o.ReusePort }, unix.SOL_SOCKET, unix.SO_REUSEPORT, ""),
	perFamily("free_bind", func(o *spec.Options) bool { return o.FreeBind }, one, unix.IP_FREEBIND, unix.IPV6_FREEBIND, ""),
	perFamily("transparent", func(o *spec.Options) bool { return o.Transparent }, one, unix.IP_TRANSPARENT, unix.IPV6_TRANSPARENT, "CAP_NET_ADMIN or CAP_NET_RAW"),

	on("no_delay", func(o *spec.Options) bool { return o.NoDelay }, unix.IPPROTO_TCP, unix.TCP_NODELAY, ""),
	on("keep_alive", func(o *spec.Options) bool { return o.KeepAlive }, unix.SOL_SOCKET, unix.SO_KEEPALIVE, ""),
	number("keep_alive_time", func(o *spec.Options) int { return seconds(o.KeepAliveTime) }, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, ""),
	number("keep_alive_interval", func(o *spec.Options) int { return seconds(o.KeepAliveInterval) }, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, ""),
	number("keep_alive_probes", func(o *spec.Options) int { return o.KeepAliveProbes }, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, ""),
	number("defer_accept", func(o *spec.Options) int { return seconds(o.DeferAccept) }, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, ""),
	{"tcp_congestion", func(o *spec.Options) bool { return o.TCPCongestion != "" }, setCongestion, "CAP_NET_ADMIN"},

	buffer("receive_buffer", func(o *spec.Options) int { return o.ReceiveBuffer }, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF),
	buffer("send_buffer", func(o *spec.Options) int { return o.SendBuffer }, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF),
	{"priority", func(o *spec.Options) bool { return o.PrioritySet }, func(fd, _ int, o *spec.Options) error {
		return setInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY, o.Priority)
	}, "CAP_NET_ADMIN for more than 6"},
	number("mark", func(o *spec.Options) int { return int(o.Mark) }, unix.SOL_SOCKET, unix.SO_MARK, "CAP_NET_ADMIN"),
	perFamily("ip_tos", func(o *spec.Options) bool { return o.IPTOSSet }, func(o *spec.Options) int { return o.IPTOS }, unix.IP_TOS, unix.IPV6_TCLASS, "CAP_NET_ADMIN"),
	perFamily("ip_ttl", func(o *spec.Options) bool { return o.IPTTL != 0 }, func(o *spec.Options) int { return o.IPTTL }, unix.IP_TTL, unix.IPV6_UNICAST_HOPS, ""),
	on("broadcast", func(o *spec.Options) bool { return o.Broadcast }, unix.SOL_SOCKET, unix.SO_BROADCAST, ""),
	{"timestamping", func(o *spec.Options) bool { return o.Timestamping != "" }, setTimestamping, ""},

	on("pass_credentials", func(o *spec.Options) bool { return o.PassCredentials }, unix.SOL_SOCKET, unix.SO_PASSCRED, ""),
	on("pass_security", func(o *spec.Options) bool { return o.PassSecurity }, unix.SOL_SOCKET, unix.SO_PASSSEC, ""),
	perFamily("pass_packet_info", func(o *spec.Options) bool { return o.PassPacketInfo }, one, unix.IP_PKTINFO, unix.IPV6_RECVPKTINFO, ""),
	{"pass_rights", func(o *spec.Options) bool { return o.RefuseRights }, func(fd, _ int, _ *spec.Options) error {
		err := setInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 0)
		if errors.Is(err, unix.ENOPROTOOPT) {
			return nil // before Linux 6.16, see CanRefuseRights
		}
		return err
	}, ""},
}

// setOptions sets all of o that is wanted; an error names the key.
func setOptions(file *os.File, family int, a spec.Address, o *spec.Options) error {
	return control(file, func(fd int) error {
		if a.TCP() {
			// As systemd: else the connections of the last run that sit in
			// TIME_WAIT block the port for a minute.
			if err := setInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				return fail(a, "SO_REUSEADDR", err, "")
			}
		}
		if family == unix.AF_INET6 {
			if err := setIPv6Only(fd, a, o); err != nil {
				return fail(a, "bind_ipv6_only", err, "")
			}
		}
		for _, opt := range options {
			if !opt.wanted(o) {
				continue
			}
			if err := opt.set(fd, family, o); err != nil {
				return fail(a, opt.key, err, opt.cure(o, err))
			}
		}
		return nil
	})
}

// setReceiving sets what a service is told with each datagram, on a stand-in. All
// else is about what the host's socket sends and holds.
func setReceiving(file *os.File, want spec.Socket) error {
	kind := kindOf(want.Address, &want.Options, haveIPv6)
	return control(file, func(fd int) error {
		for _, opt := range options {
			if opt.key != "pass_packet_info" && opt.key != "timestamping" || !opt.wanted(&want.Options) {
				continue
			}
			if err := opt.set(fd, kind.Family, &want.Options); err != nil {
				return fail(want.Address, opt.key, err, "")
			}
		}
		return nil
	})
}

func (opt *option) cure(o *spec.Options, err error) string {
	switch {
	case errors.Is(err, unix.EPERM) && opt.needs != "":
		return "needs " + opt.needs
	case errors.Is(err, unix.ENODEV):
		return fmt.Sprintf("there is no interface %q", o.BindToDevice)
	case opt.key == "tcp_congestion" && errors.Is(err, unix.ENOENT):
		return fmt.Sprintf("this kernel has no %q; sysctl net.ipv4.tcp_available_congestion_control lists what it has", o.TCPCongestion)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOPROTOOPT):
		return "this kind of socket has no such option"
	}
	return ""
}

// setIPv6Only is explicit about the wildcard: net.ipv6.bindv6only shall not
// decide which clients are served.
func setIPv6Only(fd int, a spec.Address, o *spec.Options) error {
	only := 1
	switch o.BindIPv6Only {
	case "":
		if !a.IP.IsValid() && (a.Network == spec.TCP || a.Network == spec.UDP) {
			only = 0
		}
	case "both":
		if a.Network == spec.TCP6 || a.Network == spec.UDP6 {
			return fmt.Errorf("%q contradicts %s://, which is IPv6 alone", o.BindIPv6Only, a.Network)
		}
		only = 0
	case "ipv6-only":
	case "default":
		return nil
	default:
		return fmt.Errorf(`%q is none of "default", "both", "ipv6-only"`, o.BindIPv6Only)
	}
	return setInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, only)
}

// buffer tries the form that may exceed net.core.rmem_max and wmem_max first;
// without CAP_NET_ADMIN the kernel cuts the size down to these.
func buffer(key string, size func(*spec.Options) int, force, plain int) option {
	return option{key, func(o *spec.Options) bool { return size(o) != 0 }, func(fd, _ int, o *spec.Options) error {
		err := setInt(fd, unix.SOL_SOCKET, force, size(o))
		if errors.Is(err, unix.EPERM) {
			return setInt(fd, unix.SOL_SOCKET, plain, size(o))
		}
		return err
	}, ""}
}

func setCongestion(fd, _ int, o *spec.Options) error {
	return syscallError("setsockopt", unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.TCPCongestion))
}

func setTimestamping(fd, _ int, o *spec.Options) error {
	switch o.Timestamping {
	case "off":
		return nil
	case "us":
		return setInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMP, 1)
	case "ns":
		return setInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	}
	return fmt.Errorf(`%q is none of "off", "us", "ns"`, o.Timestamping)
}

func setInt(fd, level, name, value int) error {
	return syscallError("setsockopt", unix.SetsockoptInt(fd, level, name, value))
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "an older one"
	}
	return unix.ByteSliceToString(u.Release[:])
}
