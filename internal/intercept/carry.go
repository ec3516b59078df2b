package intercept

import (
	"bytes"
	"encoding/binary"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carried is an option that a service may have set before it binds, on a socket that
// it then gets ours for.
type carried struct {
	level, name int
	normal      uint32 // what a fresh socket reads in its first 4 bytes, the rest is 0
}

// soRcvPriority is SO_RCVPRIORITY of asm-generic/socket.h, Linux 6.14.
const soRcvPriority = 82

// carries are those of the options that a sealed service may set on our socket itself,
// afterwards: what is carried over is nothing that it could not have. All outlast it,
// and are set back for the next instance by who owns the socket.
//
// Not here, and why:
//   - SO_REUSEADDR, SO_REUSEPORT: they let others bind beside us; that is reuse_port's;
//   - IPV6_V6ONLY: too late for a bound socket; it is bind_ipv6_only's;
//   - TCP_CONGESTION, TCP_NOTSENT_LOWAT, IPV6_AUTOFLOWLABEL, TCP_LINGER2, TCP_SYNCNT: what is normal
//     differs from namespace to namespace, so that cannot be told from what was set;
//   - TCP_CORK, TCP_QUICKACK, UDP_CORK: of a connection, or of a datagram that is being written;
//   - memberships of multicast, SO_BINDTODEVICE and its like: they name interfaces
//     of another network;
//   - filters and what else the seal refuses.
var carries = [...]carried{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
	{unix.SOL_SOCKET, unix.SO_LINGER, 0},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 0},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, 0},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 0},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_OLD, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_OLD, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, 0},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, 0},
	{unix.SOL_SOCKET, unix.SO_PASSSEC, 0},
	{unix.SOL_SOCKET, unix.SO_PASSPIDFD, 0},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 0},
	{unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, 0},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, 0},
	{unix.SOL_SOCKET, soRcvPriority, 0},

	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 0},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 7200}, // seconds; TCP_KEEPALIVE_TIME of net/tcp.h
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 75},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 9},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 0},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 0},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 0},
	{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 0},
	{unix.IPPROTO_TCP, unix.TCP_INQ, 0},

	{unix.IPPROTO_UDP, unix.UDP_SEGMENT, 0},
	{unix.IPPROTO_UDP, unix.UDP_GRO, 0},

	{unix.IPPROTO_IP, unix.IP_TOS, 0},
	{unix.IPPROTO_IP, unix.IP_TTL, 64},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_WANT},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, 0},
	{unix.IPPROTO_IP, unix.IP_RECVERR, 0},
	{unix.IPPROTO_IP, unix.IP_RECVERR_RFC4884, 0},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, 0},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, 0},
	{unix.IPPROTO_IP, unix.IP_RECVOPTS, 0},
	{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 0},
	{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, 0},
	{unix.IPPROTO_IP, unix.IP_PASSSEC, 0},

	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 64},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_WANT},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_2292PKTINFO, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR_RFC4884, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPATHMTU, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, 0},
}

// carry gives ours what the service had set on theirs. What ours cannot have (an
// option of IPv6 on a socket of IPv4) it does without.
func carry(theirs, ours int) {
	var buf [64]byte
	for i := range carries {
		c := &carries[i]
		value := c.read(theirs, &buf)
		if value != nil && !c.isNormal(value) {
			c.write(ours, value)
		}
	}
	carryBuffers(theirs, ours)
}

func (c *carried) read(fd int, buf *[64]byte) []byte {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(c.level), uintptr(c.name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || int(size) > len(buf) {
		return nil
	}
	return buf[:size]
}

func (c *carried) write(fd int, value []byte) {
	_, _, _ = unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(c.level), uintptr(c.name),
		uintptr(unsafe.Pointer(&value[0])), uintptr(len(value)), 0)
}

func (c *carried) isNormal(value []byte) bool {
	if len(value) < 4 { // one byte, as old options of IP are read
		return len(value) == 0 || uint32(value[0]) == c.normal
	}
	rest := value[4:]
	return binary.NativeEndian.Uint32(value) == c.normal && len(bytes.Trim(rest, "\x00")) == 0
}

// carryBuffers: the kernel doubles what is asked for, socket(7), and tells which
// sizes somebody asked for: SO_BUF_LOCK, Linux 5.14. Never by the forms that exceed
// the limits of the host.
func carryBuffers(theirs, ours int) {
	const sendLock, receiveLock = 1, 2
	locks, err := unix.GetsockoptInt(theirs, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	if err != nil {
		return
	}
	for _, b := range []struct{ lock, option int }{{sendLock, unix.SO_SNDBUF}, {receiveLock, unix.SO_RCVBUF}} {
		if locks&b.lock == 0 {
			continue
		}
		if size, err := unix.GetsockoptInt(theirs, unix.SOL_SOCKET, b.option); err == nil {
			_ = unix.SetsockoptInt(ours, unix.SOL_SOCKET, b.option, size/2)
		}
	}
}
