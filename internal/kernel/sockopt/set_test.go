package sockopt

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// socketOf is a socket of an address, whose options are o.
func socketOf(t *testing.T, address string, o spec.Options) *spec.Socket {
	t.Helper()
	a, err := spec.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	return &spec.Socket{Address: a, Options: o}
}

// The kernel derives the priority from IP_TOS, and what was asked for is there all the same: in whatever
// order the two are asked for, of both families, also 0.
func TestSetPriority(t *testing.T) {
	for kind, address := range map[string]string{"udp4": "udp4://:1", "tcp6": "tcp://:1"} {
		for _, o := range []spec.Options{
			{Priority: 3, PrioritySet: true, IPTOS: 0x10, IPTOSSet: true}, {PrioritySet: true, IPTOS: 0x10, IPTOSSet: true},
			{Priority: 3, PrioritySet: true, IPTOSSet: true},
		} {
			t.Run(fmt.Sprint(kind, " ", o.Priority, " ", o.IPTOS), func(t *testing.T) {
				fd := open(t, kind)
				if err := SetOptions(fd, socketOf(t, address, o), Password{}); err != nil {
					t.Fatal(err)
				}
				wants(t, fd, tos(o.IPTOS), prio(o.Priority))
			})
		}
	}
}

// A relay socket has what is about the service's own calls, and nothing else.
func TestSetRelayed(t *testing.T) {
	o := spec.Options{Broadcast: true, SendBuffer: 50000, PassPacketInfo: true, Timestamping: "ns", Priority: 3, PrioritySet: true, IPTTL: 9, ReceiveBuffer: 60000}
	const sol = unix.SOL_SOCKET
	for kind, address := range map[string]string{"udp4": "udp4://:1", "udp6": "udp://:1"} {
		fd := open(t, kind)
		buffer, _ := unix.GetsockoptInt(fd, sol, unix.SO_RCVBUF)
		if err := SetRelayed(fd, socketOf(t, address, o)); err != nil {
			t.Fatal(err)
		}
		wants(t, fd, setting{sol, unix.SO_BROADCAST, 1}, setting{sol, unix.SO_SNDBUF, 100000}, setting{sol, unix.SO_TIMESTAMPNS, 1},
			setting{unix.IPPROTO_IP, unix.IP_PKTINFO, 1}, prio(0), ttl(64), setting{sol, unix.SO_RCVBUF, buffer})
	}
}

// What nobody asks for is not set, but for two of the internet.
func TestSetNothing(t *testing.T) {
	for kind, address := range map[string]string{"udp4": "udp4://:1", "unix": "unix://@a", "unixgram": "unixgram://@a", "udp6": "udp6://:1", "tcp4": "tcp4://:1"} {
		fd := open(t, kind)
		before := RecordState(fd)
		if err := SetOptions(fd, socketOf(t, address, spec.Options{}), Password{}); err != nil {
			t.Fatal(err)
		}
		changed, _ := before.Restore(fd)
		if want := map[string]string{"udp6": "[IPV6_V6ONLY]", "tcp4": "[SO_REUSEADDR]"}[kind]; fmt.Sprint(changed) != cmp.Or(want, "[]") {
			t.Errorf("%s: %v, want %s", kind, changed, want)
		}
	}
}

// An error names the key of the configuration, and a cure.
func TestSetError(t *testing.T) {
	var failed *Error
	err := SetOptions(open(t, "unix"), socketOf(t, "unix://@a", spec.Options{NoDelay: true}), Password{})
	if !errors.As(err, &failed) || failed.Key != "no_delay" || failed.Cure != "this kind of socket has no such option" || !errors.Is(err, unix.EOPNOTSUPP) {
		t.Errorf("%+v", err)
	}
	err = SetOptions(open(t, "udp4"), socketOf(t, "udp4://:1", spec.Options{Mark: 1}), Password{})
	if os.Geteuid() != 0 && (!errors.As(err, &failed) || failed.Cure != "needs CAP_NET_ADMIN") {
		t.Errorf("%v", err)
	}
}
