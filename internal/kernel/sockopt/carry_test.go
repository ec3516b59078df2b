package sockopt

import (
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel derives the priority from each IP_TOS, as we think.
func TestDerived(t *testing.T) {
	for n := range 256 {
		fd := open(t, "udp4")
		set(t, fd, tos(n))
		if p := priorityOf(fd); p.isAsked() || p.tos != n {
			t.Errorf("IP_TOS %#x: %+v", n, p)
		}
	}
}

func TestCarry(t *testing.T) {
	if !inNetwork(t) {
		return
	}
	sol, ip, tcp := unix.SOL_SOCKET, unix.IPPROTO_IP, unix.IPPROTO_TCP
	for name, tt := range map[string]struct {
		kind         string
		ours, theirs []setting
		sealed       bool
		want         []setting
	}{
		"a priority, then IP_TOS":       {"udp4", nil, []setting{tos(0x10), prio(3)}, true, []setting{tos(0x10), prio(3)}},
		"of IPv6 too":                   {"tcp6", nil, []setting{tos(0x10), class(0x10), prio(3)}, true, []setting{tos(0x10), class(0x10), prio(3)}},
		"a priority of 0":               {"tcp4", nil, []setting{tos(0x10), prio(0)}, true, []setting{tos(0x10), prio(0)}},
		"a priority alone":              {"unixgram", nil, []setting{prio(3)}, true, []setting{prio(3)}},
		"IP_TOS alone":                  {"udp4", nil, []setting{tos(0x10)}, true, []setting{tos(0x10), prio(6)}},
		"IP_TOS, ours has a priority":   {"udp4", []setting{prio(3)}, []setting{tos(0x10)}, true, []setting{tos(0x10), prio(3)}},
		"the same IP_TOS as ours":       {"udp4", []setting{tos(0x10), prio(3)}, []setting{tos(0x10)}, true, []setting{tos(0x10), prio(3)}},
		"both, and ours has both":       {"udp4", []setting{tos(0x10), prio(3)}, []setting{tos(0x08), prio(5)}, true, []setting{tos(0x08), prio(5)}},
		"ours derives from another":     {"udp4", []setting{tos(0x10)}, []setting{tos(0x08)}, true, []setting{tos(0x08), prio(2)}},
		"a priority that takes a right": {"udp4", []setting{prio(3)}, []setting{prio(7)}, false, []setting{prio(3)}},
		"so does a negative one":        {"udp4", nil, []setting{prio(-1)}, false, []setting{prio(0)}},

		"sealed":     {"udp4", nil, []setting{ttl(9), {sol, unix.SO_BROADCAST, 1}}, true, []setting{ttl(64), {sol, unix.SO_BROADCAST, 1}}},
		"not sealed": {"udp4", nil, []setting{ttl(9), {sol, unix.SO_BROADCAST, 1}}, false, []setting{ttl(9), {sol, unix.SO_BROADCAST, 1}}},
		"a mark":     {"udp4", nil, []setting{mark(1)}, false, []setting{mark(0)}},
		"its own":    {"tcp4", []setting{ttl(9), {sol, unix.SO_KEEPALIVE, 1}}, nil, false, []setting{ttl(9), {sol, unix.SO_KEEPALIVE, 1}}},

		"checksums":    {"udp4", nil, []setting{{ip, unix.IP_CHECKSUM, 1}}, true, []setting{{ip, unix.IP_CHECKSUM, 1}}},
		"thin streams": {"tcp4", nil, []setting{{tcp, unix.TCP_THIN_LINEAR_TIMEOUTS, 1}}, true, []setting{{tcp, unix.TCP_THIN_LINEAR_TIMEOUTS, 1}}},
		"withheld":     {"tcp4", []setting{{sol, unix.SO_RCVBUF, 40000}}, []setting{{sol, unix.SO_RCVBUF, 50000}, {tcp, unix.TCP_USER_TIMEOUT, 1}}, true, []setting{{sol, unix.SO_RCVBUF, 80000}, {tcp, unix.TCP_USER_TIMEOUT, 0}}},
		"frequent":     {"tcp4", nil, []setting{{tcp, unix.TCP_KEEPIDLE, 77}}, true, []setting{{tcp, unix.TCP_KEEPIDLE, 77}}},
		"of datagrams": {"udp4", nil, []setting{{sol, unix.SO_RCVBUF, 50000}, {sol, unix.SO_SNDBUF, 60000}}, true, []setting{{sol, unix.SO_RCVBUF, 100000}, {sol, unix.SO_SNDBUF, 120000}}},
		"buffers":      {"tcp4", nil, []setting{{sol, unix.SO_RCVBUF, 50000}, {sol, unix.SO_SNDBUF, 60000}}, false, []setting{{sol, unix.SO_RCVBUF, 100000}, {sol, unix.SO_SNDBUF, 120000}}},
	} {
		t.Run(name, func(t *testing.T) {
			theirs, ours := open(t, tt.kind), open(t, tt.kind)
			set(t, theirs, tt.theirs...)
			set(t, ours, tt.ours...)
			CarryOptions(theirs, ours, tt.sealed)
			wants(t, ours, tt.want...)
		})
	}
}

// What a program of IPv6 had set is on a socket of IPv4, as far as that can have it.
func TestCarryToIPv4(t *testing.T) {
	theirs, ours := open(t, "udp6"), open(t, "udp4")
	set(t, theirs, class(0x10), setting{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1}, setting{unix.SOL_SOCKET, unix.SO_BROADCAST, 1}, tos(0x10), prio(3))
	CarryOptions(theirs, ours, true)
	wants(t, ours, setting{unix.SOL_SOCKET, unix.SO_BROADCAST, 1}, tos(0x10), prio(3))
}
