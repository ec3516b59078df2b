package netns

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// namespace is a network namespace with the user namespace that it is entered by, as
// descriptors.
type namespace struct{ user, network int }

// namespaceOf opens that of a socket, and the user namespace that owns it, which is one of
// ours. The caller closes it.
func namespaceOf(socket int) (n namespace, err error) {
	n.user = -1
	if n.network, err = unix.IoctlRetInt(socket, unix.SIOCGSKNS); err != nil {
		return n, os.NewSyscallError("ioctl SIOCGSKNS", err)
	}
	if n.user, err = unix.IoctlRetInt(n.network, unix.NS_GET_USERNS); err != nil {
		n.closeFDs()
		return n, os.NewSyscallError("ioctl NS_GET_USERNS", err)
	}
	return n, nil
}

// closeFDs may be called twice.
func (n *namespace) closeFDs() {
	for _, fd := range []*int{&n.user, &n.network} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

// addEnterCalls has a child enter the namespaces.
func (n *namespace) addEnterCalls(c *child) {
	c.addCall("setns", unix.SYS_SETNS, uintptr(n.user), unix.CLONE_NEWUSER)
	c.addCall("setns", unix.SYS_SETNS, uintptr(n.network), unix.CLONE_NEWNET)
}

// openInside runs the calls that add adds inside, and returns the descriptors that they open,
// all or none. The caller closes them.
func (n *namespace) openInside(add func(c *child)) ([]int, error) {
	c, err := newChild()
	if err != nil {
		return nil, err
	}
	defer c.list.Close()
	n.addEnterCalls(c)
	add(c)
	return c.runCalls(unix.CLONE_VFORK)
}

// makeSockets makes a socket of each kind inside, close-on-exec, all or none. The caller
// closes them.
func (n *namespace) makeSockets(kinds ...spec.Kind) ([]int, error) {
	return n.openInside(func(c *child) {
		for _, k := range kinds {
			c.addSocket(k)
		}
	})
}

// makeDatagramSockets makes count datagram sockets of a family inside, see [allowAnyAddress].
func (n *namespace) makeDatagramSockets(family, count int) ([]int, error) {
	kinds := make([]spec.Kind, count)
	for i := range kinds {
		kinds[i] = datagramKind(family)
	}
	fds, err := n.makeSockets(kinds...)
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if err := allowAnyAddress(fd, family); err != nil {
			closeAll(fds)
			return nil, err
		}
	}
	return fds, nil
}

func datagramKind(family int) spec.Kind {
	return spec.Kind{Family: family, Type: unix.SOCK_DGRAM | unix.SOCK_NONBLOCK}
}

// allowAnyAddress lets an internet socket have any client's address, ip(7), of its own
// family alone.
func allowAnyAddress(fd, family int) error {
	var err error
	switch family {
	case unix.AF_INET:
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	case unix.AF_INET6:
		if err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1); err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1)
		}
	}
	return os.NewSyscallError("setsockopt", err)
}

// addLocalRoutes makes every address of the families local inside, as `ip route add local default
// dev lo table local` would: what is sent to a client's address comes to the socket that has
// it. route is a socket of the namespace, of rtnetlink(7), lent. A kernel without a family
// needs none of it.
func addLocalRoutes(route int, families ...int) error {
	for _, family := range families {
		err := sockdiag.Exchange(route, unix.RTM_NEWROUTE, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, localRoute(family), func([]byte) {})
		if err != nil && err != unix.EEXIST && err != unix.EOPNOTSUPP && err != unix.EAFNOSUPPORT {
			return os.NewSyscallError("rtnetlink RTM_NEWROUTE", err)
		}
	}
	return nil
}

// routeKind is a socket for addLocalRoutes.
var routeKind = spec.Kind{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW | unix.SOCK_NONBLOCK, Protocol: unix.NETLINK_ROUTE}

// diagKind is a socket that lists the sockets of its namespace, sock_diag(7).
var diagKind = spec.Kind{Family: unix.AF_NETLINK, Type: unix.SOCK_RAW | unix.SOCK_NONBLOCK, Protocol: unix.NETLINK_SOCK_DIAG}
