package listen

import (
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// ProbeAbilities tries what sockets need.
func ProbeAbilities() []spec.Ability {
	return []spec.Ability{checkFamily("IPv6", unix.AF_INET6, "tcp6://, udp6:// and [::] addresses cannot be bound; tcp://:80 is IPv4 only", "sysctl net.ipv6.conf.all.disable_ipv6=0, or boot without ipv6.disable=1"),
		checkFamily("vsock", unix.AF_VSOCK, "vsock:// addresses cannot be bound", "modprobe vsock_loopback (or vhost_vsock, vmw_vsock_virtio_transport)"),
		checkPassRights()}
}

// CanRefuseRights reports whether a unix socket can keep clients from passing
// descriptors in: SO_PASSRIGHTS, Linux 6.16.
var CanRefuseRights = sync.OnceValue(func() bool {
	return trySocket(unix.AF_UNIX, unix.SOCK_STREAM, func(fd int) error {
		_, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSRIGHTS)
		return err
	}) == nil
})

func checkPassRights() spec.Ability {
	a := spec.Ability{Name: "refusal of descriptors", OK: CanRefuseRights(), Detail: "SO_PASSRIGHTS: clients cannot pass descriptors in",
		Needs: "the default works; a client that colludes can pass a service a socket, a file or a folder of its own without a detour", Cure: "Linux 6.16"}
	if !a.OK {
		a.Detail = "no SO_PASSRIGHTS, this is Linux " + proc.KernelRelease()
	}
	return a
}

func checkFamily(name string, domain int, needs, cure string) spec.Ability {
	a := spec.Ability{Name: name, OK: true, Detail: "sockets can be made", Needs: needs, Cure: cure}
	if err := trySocket(domain, unix.SOCK_STREAM, nil); err != nil {
		a.OK, a.Detail = false, err.Error()
	}
	return a
}
