package listen

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Ability is something about sockets that this kernel or this user may lack.
type Ability struct {
	Name   string
	OK     bool
	Detail string // what was seen
	Needs  string // what depends on it
	Cure   string // how to get it
}

// Abilities tries what sockets need.
func Abilities() []Ability {
	return []Ability{family("IPv6", unix.AF_INET6, "tcp6://, udp6:// and [::] addresses; tcp://:80 is IPv4 only", "sysctl net.ipv6.conf.all.disable_ipv6=0, or boot without ipv6.disable=1"),
		family("vsock", unix.AF_VSOCK, "vsock:// addresses", "modprobe vsock_loopback (or vhost_vsock, vmw_vsock_virtio_transport)"),
		lowPorts()}
}

func family(name string, domain int, needs, cure string) Ability {
	a := Ability{Name: name, Needs: needs, Cure: cure}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		a.Detail = os.NewSyscallError("socket", err).Error()
		return a
	}
	_ = unix.Close(fd)
	a.OK, a.Detail = true, "sockets can be made"
	return a
}

// lowPorts tells whether this user may bind all ports.
func lowPorts() Ability {
	const file = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
	a := Ability{Name: "ports below 1024", Needs: "addresses with such a port"}
	first := 1024
	if text, err := os.ReadFile(file); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			first = n
		}
	}
	a.Detail = fmt.Sprintf("unprivileged ports begin at %d", first)
	a.Cure = "as root: sysctl net.ipv4.ip_unprivileged_port_start=80, or setcap cap_net_bind_service=+ep on the activator"
	a.OK = first <= 1 || canBindLow()
	return a
}

// canBindLow reports CAP_NET_BIND_SERVICE among our effective capabilities.
func canBindLow() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_BIND_SERVICE) != 0
}
