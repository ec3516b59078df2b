package sockdiag

import (
	"encoding/binary"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// States of sockets as masks, from include/net/tcp_states.h. UDP and unix sockets have
// some of them too.
const (
	Established = 1 << 1
	FinWait1    = 1 << 4
	FinWait2    = 1 << 5
	TimeWait    = 1 << 6
	Unconnected = 1 << 7 // TCP_CLOSE
	CloseWait   = 1 << 8
	LastAck     = 1 << 9
	Listening   = 1 << 10
	Closing     = 1 << 11
	AnyState    = ^uint32(0)
)

// Inet is a question for sockets of the internet.
type Inet struct {
	Family, Protocol int    // AF_INET or AF_INET6, IPPROTO_TCP or IPPROTO_UDP
	States           uint32 // a mask
	Port             uint16 // the local one; 0: any
	Memory           bool   // InetSocket.Room is wanted
	Silence          bool   // InetSocket.Silent is wanted
}

// InetSocket is one of them.
type InetSocket struct {
	Local, Remote netip.AddrPort
	State         uint32 // as a mask
	V6Only        bool   // as the option is
	Cookie        uint64 // that no other socket has ever had
	Unread        uint32 // bytes of the receive buffer; of a listener: connections that wait
	UID           uint32 // of the user who made it, in our user namespace
	Inode         uint32 // of sockfs; 0: no process has a descriptor
	Room          int    // bytes that the receive buffer may take

	Silent time.Duration // of a connection of TCP: since when neither side has sent data
}

// Each calls each with every such socket, valid during the call only. ENOENT: the kernel
// cannot tell.
func (q Inet) Each(socket int, each func(*InetSocket)) error {
	body := q.encodeRequest()
	binary.BigEndian.PutUint16(body[8:], q.Port)
	return os.NewSyscallError("sock_diag", Exchange(socket, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, body[:], q.newReader(each)))
}

// ToLoopback calls each with the socket that a datagram to ip, at the port, would go to that came
// in by lo, udp_dump_one: its address is the "destination" of the question. ENOENT: none.
func (q Inet) ToLoopback(socket int, ip netip.Addr, each func(*InetSocket)) error {
	const loopback = 1 // ifindex of lo, in every namespace
	body := q.encodeRequest()
	binary.BigEndian.PutUint16(body[10:], q.Port)
	copy(body[28:], ip.AsSlice())
	binary.NativeEndian.PutUint32(body[44:], loopback)
	binary.NativeEndian.PutUint64(body[48:], ^uint64(0)) // INET_DIAG_NOCOOKIE, twice
	return os.NewSyscallError("sock_diag", exchangeOne(socket, unix.SOCK_DIAG_BY_FAMILY, body[:], q.newReader(each)))
}

// The size of struct inet_diag_msg, and its attributes that we read: linux/inet_diag.h.
const (
	inetSize     = 72
	inetInfo     = 2  // INET_DIAG_INFO, struct tcp_info
	inetMemory   = 7  // INET_DIAG_SKMEMINFO
	inetV6Only   = 11 // INET_DIAG_SKV6ONLY
	memoryUsed   = 0  // SK_MEMINFO_RMEM_ALLOC, in bytes of the attribute
	memoryBuffer = 4  // SK_MEMINFO_RCVBUF
	infoSent     = 44 // tcpi_last_data_sent, in milliseconds
	infoReceived = 52 // tcpi_last_data_recv
)

// encodeRequest is struct inet_diag_req_v2.
func (q Inet) encodeRequest() (b [56]byte) {
	b[0], b[1] = byte(q.Family), byte(q.Protocol)
	if q.Memory {
		b[2] = 1 << (inetMemory - 1)
	}
	if q.Silence {
		b[2] |= 1 << (inetInfo - 1)
	}
	binary.NativeEndian.PutUint32(b[4:], q.States)
	return b
}

func (q Inet) newReader(each func(*InetSocket)) func(body []byte) {
	var s InetSocket
	return func(body []byte) {
		if s.decodeMessage(body) && (q.Port == 0 || s.Local.Port() == q.Port) && q.States&s.State != 0 {
			each(&s)
		}
	}
}

// decodeMessage reads struct inet_diag_msg and what follows it.
func (s *InetSocket) decodeMessage(msg []byte) bool {
	if len(msg) < inetSize {
		return false
	}
	*s = InetSocket{
		State:  1 << (msg[1] & 31),
		Local:  addrPort(msg[0], msg[8:], msg[4:]),
		Remote: addrPort(msg[0], msg[24:], msg[6:]),
		Cookie: binary.NativeEndian.Uint64(msg[44:]),
		Unread: binary.NativeEndian.Uint32(msg[56:]), // idiag_rqueue
		UID:    binary.NativeEndian.Uint32(msg[64:]),
		Inode:  binary.NativeEndian.Uint32(msg[68:]),
	}
	eachAttribute(msg[inetSize:], func(kind uint16, value []byte) {
		switch {
		case kind == inetV6Only && len(value) > 0:
			s.V6Only = value[0] != 0
		case kind == inetInfo && len(value) >= infoReceived+4:
			sent, received := binary.NativeEndian.Uint32(value[infoSent:]), binary.NativeEndian.Uint32(value[infoReceived:])
			s.Silent = time.Duration(min(sent, received)) * time.Millisecond
		case kind == inetMemory && len(value) >= 8:
			used, buffer := binary.NativeEndian.Uint32(value[memoryUsed:]), binary.NativeEndian.Uint32(value[memoryBuffer:])
			s.Room = int(buffer)/2 - int(used)
		}
	})
	return true
}

func addrPort(family byte, ip, port []byte) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(ip[:16]))
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(ip[:4]))
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port))
}
