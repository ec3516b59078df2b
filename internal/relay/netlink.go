package relay

import (
	"encoding/binary"
	"os"

	"golang.org/x/sys/unix"
)

// everythingLocal makes lo the whole world of the calling thread's new network
// namespace: up, and every address local to it, as `ip link set lo up` and
// `ip route add local default dev lo table local` would.
func everythingLocal(families ...int) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // netdevice(7): any socket does
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", err)
	}
	link, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(link)
	for _, family := range families {
		if err := addRoute(link, family); err != nil {
			return os.NewSyscallError("rtnetlink RTM_NEWROUTE", err)
		}
	}
	return nil
}

// addRoute sends a route and waits for its acknowledgement, which the kernel
// has ready when sendto returns.
func addRoute(link, family int) error {
	if err := unix.Sendto(link, localRoute(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	var answer [512]byte
	n, _, err := unix.Recvfrom(link, answer[:], 0)
	if err != nil {
		return err
	}
	return acknowledged(answer[:n])
}

// localRoute is the message, rtnetlink(7): struct nlmsghdr, struct rtmsg, and
// one attribute, RTA_OIF.
func localRoute(family int) []byte {
	const length = unix.SizeofNlMsghdr + unix.SizeofRtMsg + unix.SizeofRtAttr + 4
	b := make([]byte, 0, length)
	b = binary.NativeEndian.AppendUint32(b, length)
	b = binary.NativeEndian.AppendUint16(b, unix.RTM_NEWROUTE)
	b = binary.NativeEndian.AppendUint16(b, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	b = binary.NativeEndian.AppendUint32(b, 1) // sequence number
	b = binary.NativeEndian.AppendUint32(b, 0) // port: the kernel fills it in
	b = append(b, byte(family), 0, 0, 0,       // both prefixes of length 0, no TOS
		unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL)
	b = binary.NativeEndian.AppendUint32(b, 0) // flags
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_OIF)
	return binary.NativeEndian.AppendUint32(b, loopback)
}

// acknowledged reads an NLMSG_ERROR, which is an acknowledgement when its error
// is 0. netlink(7).
func acknowledged(b []byte) error {
	if len(b) < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(b[4:]) != unix.NLMSG_ERROR {
		return unix.EBADMSG
	}
	return errnoOrNil(unix.Errno(-int32(binary.NativeEndian.Uint32(b[unix.SizeofNlMsghdr:]))))
}
