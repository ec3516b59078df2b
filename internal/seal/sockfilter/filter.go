package sockfilter

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A peer is a key of a socket's table: sixteen bytes of address (an IPv4 one as
// mapped, so that a dual-stack socket has one table), two of port, both as on the
// wire, and two of nothing. Its value is when it was heard or answered last, by the coarse clock, and, where
// its address is one of a link alone (fe80::, 169.254.), the interface it was heard by; else 0.
const (
	peerSize     = 20
	peerTime     = 0
	peerLink     = 8
	peerValue    = 16
	expireShift  = 20 // nanoseconds to what an expiry is in, milliseconds and a bit
	loopbackLink = 1  // lo, in every network namespace
)

// An arrival is a key of the table of all sockets in which the interface is noted that a link's peer has come
// by: the hooks of recvmsg do not tell it. A socket's cookie, the peer, and four bytes of nothing.
const (
	arrivalSize = 8 + peerSize + 4
	arrivals    = 4096
)

// Places on the stack of every program, from its end.
const (
	atNothing = -4  // behind the peer in an arrival
	atPeer    = -24 // the peer asked about
	atCookie  = -32 // the socket's cookie
	atNoted   = -48 // the value of a peer, or of an arrival
	atPacket  = -96 // the packet's first 48 bytes
)

// Offsets in struct bpf_sock_addr, linux/bpf.h.
const (
	userIP4  = 4
	userIP6  = 8
	userPort = 24
)

// Offsets in struct __sk_buff, linux/bpf.h.
const (
	skbProtocol = 16
	skbLink     = 40 // the interface, in either direction
)

// The header of IPv4 (RFC 791), of IPv6 (RFC 8200) and of UDP after them.
const (
	ip4Size, ip6Size         = 20, 40
	ip4Fragment              = 6
	ip4Protocol              = 9
	ip4Source                = 12
	ip4Destination           = 16
	ip6Next                  = 6
	ip6Source                = 8
	ip6Destination           = 24
	udpSize                  = 8
	udpSource, udpPort       = 0, 2
	ip4NoOptions       int32 = 0x45 // version 4, five words
	fragmentMask             = 0x3fff
)

// tables are the descriptors of the maps that the programs share.
type tables struct {
	slots    int   // cookie -> number of a table
	byNumber int   // number -> the table
	arrivals int   // arrival -> interface
	expire   int32 // how long a peer may be silent, see expireShift
}

// hook is a place in the kernel where one of the programs runs.
type hook struct {
	name   string
	kind   uint32 // of program
	attach uint32 // where to; the kernel checks the program for just that place
	build  func(tables) *program
}

// hooks returns all of them.
func hooks() []hook {
	const address = unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR
	return []hook{
		{"recvmsg4", address, unix.BPF_CGROUP_UDP4_RECVMSG, func(t tables) *program { return learnPeers(t, addressPeer4) }},
		{"recvmsg6", address, unix.BPF_CGROUP_UDP6_RECVMSG, func(t tables) *program { return learnPeers(t, addressPeer6) }},
		{"connect4", address, unix.BPF_CGROUP_INET4_CONNECT, func(t tables) *program { return checkPeers(t, addressPeer4) }},
		{"connect6", address, unix.BPF_CGROUP_INET6_CONNECT, func(t tables) *program { return checkPeers(t, addressPeer6) }},
		{"sendmsg4", address, unix.BPF_CGROUP_UDP4_SENDMSG, func(t tables) *program { return checkPeers(t, addressPeer4) }},
		{"ingress", unix.BPF_PROG_TYPE_CGROUP_SKB, unix.BPF_CGROUP_INET_INGRESS, noteArrival},
		{"egress", unix.BPF_PROG_TYPE_CGROUP_SKB, unix.BPF_CGROUP_INET_EGRESS, checkPackets},
	}
}

// learnPeers remembers the peer. The lookup comes first because it is cheap and marks
// the peer as used, where an update takes locks. The kernel takes 1 only.
func learnPeers(t tables, peer func(*program)) *program {
	p := newProgram()
	p.move(r6, r1)
	peer(p)
	p.storeCookie()
	p.moveValue(r9, 0)
	p.ifLink("link")
	p.label("learn")
	p.call(coarseClock)
	p.move(r8, r0)
	p.lookUpPeer(t)
	p.ifNot(r0, 0, "known")
	p.store(doubleWord, r10, atNoted+peerTime, r8)
	p.store(doubleWord, r10, atNoted+peerLink, r9)
	p.move(r1, r7)
	p.stack(r2, atPeer)
	p.stack(r3, atNoted)
	p.moveValue(r4, unix.BPF_ANY)
	p.call(mapUpdate) // of a table that is full: the peer not heard for longest goes
	p.jump("done")
	p.label("known")
	p.store(doubleWord, r0, peerTime, r8)
	p.store(doubleWord, r0, peerLink, r9)
	p.jump("done")
	p.label("link")
	p.moveValue(r1, 0)
	p.store(word, r10, atNothing, r1)
	p.loadMap(r1, t.arrivals)
	p.stack(r2, atCookie)
	p.call(mapLookup)
	p.ifEqual(r0, 0, "done") // so many others have come since: it has to ask again
	p.load(word, r9, r0, 0)
	p.jump("learn")
	p.label("refuse") // no table yet: nothing to remember in
	p.label("done")
	p.result(1)
	return p
}

// checkPeers lets pass, with 1, an address that is a remembered peer's; anything else ends with
// EPERM for the sender. A link's address is none of a group: of that the packet is looked at.
func checkPeers(t tables, peer func(*program)) *program {
	p := newProgram()
	p.move(r6, r1)
	peer(p)
	p.ifLink("pass")
	p.storeCookie()
	p.lookUpPeer(t)
	p.ifEqual(r0, 0, "refuse")
	p.refuseExpired(t)
	p.label("pass")
	p.result(1)
	p.label("refuse")
	p.result(0)
	return p
}

// checkPackets lets pass what is for a remembered peer, for a link's peer by the interface that it was heard
// by, and notes that it was answered.
func checkPackets(t tables) *program {
	p := newProgram()
	p.move(r6, r1)
	packetPeer(p)
	p.storeCookie()
	p.lookUpPeer(t)
	p.ifEqual(r0, 0, "refuse")
	p.refuseExpired(t)
	p.store(doubleWord, r8, peerTime, r0)
	p.load(word, r1, r8, peerLink)
	p.ifEqual(r1, 0, "pass")
	p.load(word, r2, r6, skbLink)
	p.ifDiffer(r1, r2, "refuse")
	p.label("pass")
	p.result(1)
	p.label("refuse")
	p.result(0)
	return p
}

// refuseExpired goes to "refuse" where the peer whose value r0 points to was silent for too long. It leaves
// the pointer in r8 and the time in r0.
func (p *program) refuseExpired(t tables) {
	p.move(r8, r0)
	p.load(doubleWord, r9, r8, peerTime) // before the clock, so that it is not later
	p.call(coarseClock)
	p.move(r1, r0)
	p.subtract(r1, r9)
	p.shiftRight(r1, expireShift)
	p.ifGreater(r1, t.expire, "refuse")
}

// noteArrival notes the interface that a link's peer comes by, as it comes. That of all others does not
// matter, and a flood of them takes no place here.
func noteArrival(t tables) *program {
	p := newProgram()
	p.move(r6, r1)
	arrivingPeer(p)
	p.ifLink("note")
	p.label("refuse") // nothing is: answers to it will be
	p.result(1)
	p.label("note")
	p.storeCookie()
	p.moveValue(r1, 0)
	p.store(word, r10, atNothing, r1)
	p.load(word, r1, r6, skbLink)
	p.store(word, r10, atNoted, r1)
	p.loadMap(r1, t.arrivals)
	p.stack(r2, atCookie)
	p.stack(r3, atNoted)
	p.moveValue(r4, unix.BPF_ANY)
	p.call(mapUpdate)
	p.result(1)
	return p
}

// storeCookie writes the socket's cookie.
func (p *program) storeCookie() {
	p.move(r1, r6)
	p.call(socketCookie)
	p.store(doubleWord, r10, atCookie, r0)
}

// lookUpPeer leaves in r7 the table of the socket and in r0 the peer's entry in it,
// zero if there is none. Without a table it jumps to "refuse".
func (p *program) lookUpPeer(t tables) {
	p.loadMap(r1, t.slots)
	p.stack(r2, atCookie)
	p.call(mapLookup)
	p.ifEqual(r0, 0, "refuse")
	p.move(r2, r0)
	p.loadMap(r1, t.byNumber)
	p.call(mapLookup)
	p.ifEqual(r0, 0, "refuse")
	p.move(r7, r0)
	p.move(r1, r7)
	p.stack(r2, atPeer)
	p.call(mapLookup)
}

// ifLink jumps where the peer's address means somebody on a link alone: fe80::/10, or 169.254.0.0/16, also
// mapped.
func (p *program) ifLink(label string) {
	six, other := label+": IPv6", label+": no"
	p.load(half, r1, r10, atPeer)
	p.ifNot(r1, 0, six)
	p.load(half, r1, r10, atPeer+10)
	p.ifNot(r1, onTheWire(0xffff), other)
	p.load(half, r1, r10, atPeer+12)
	p.ifEqual(r1, onTheWire(169<<8|254), label)
	p.jump(other)
	p.label(six)
	p.and(r1, onTheWire(0xffc0))
	p.ifEqual(r1, onTheWire(0xfe80), label)
	p.label(other)
}

// storeMappedPrefix writes the first twelve bytes of an IPv4 address in the form of IPv6.
func (p *program) storeMappedPrefix() {
	p.moveValue(r1, 0)
	p.store(doubleWord, r10, atPeer, r1)
	p.moveValue(r1, int32(binary.NativeEndian.Uint32([]byte{0, 0, 0xff, 0xff})))
	p.store(word, r10, atPeer+8, r1)
}

// addressPeer4 makes the peer of a struct sockaddr_in. A port is loaded as a
// word whose other half is zero.
func addressPeer4(p *program) {
	p.storeMappedPrefix()
	p.load(word, r1, r6, userIP4)
	p.store(word, r10, atPeer+12, r1)
	p.load(word, r1, r6, userPort)
	p.store(word, r10, atPeer+16, r1)
}

// addressPeer6 makes the peer of a struct sockaddr_in6.
func addressPeer6(p *program) {
	for i := int16(0); i < 16; i += 4 {
		p.load(word, r1, r6, userIP6+i)
		p.store(word, r10, atPeer+i, r1)
	}
	p.load(word, r1, r6, userPort)
	p.store(word, r10, atPeer+16, r1)
}

// packetPeer makes the peer that a packet is for, and refuses all but plain UDP. What is from or for an
// address of the loopback leaves by lo alone: the sender may have chosen another way, by IP_PKTINFO.
// The hook comes before a packet is cut into fragments or segments, so that the
// UDP header is always there (ip_finish_output(), ip6_finish_output()).
func packetPeer(p *program) {
	p.readHeaders(ip4Destination, ip6Destination, udpPort)
	p.load(word, r1, r6, skbLink)
	p.ifEqual(r1, loopbackLink, "inside")
	p.load(word, r1, r6, skbProtocol)
	p.ifEqual(r1, onTheWire(unix.ETH_P_IP), "outside: ip4")
	p.refuseLoopback6(atPacket+ip6Source, "source")
	p.refuseLoopback6(atPacket+ip6Destination, "destination")
	p.jump("inside")
	p.label("outside: ip4")
	for _, at := range []int16{ip4Source, ip4Destination} {
		p.load(octet, r1, r10, atPacket+at)
		p.ifEqual(r1, 127, "refuse")
	}
	p.label("inside")
}

// refuseLoopback6 refuses ::1 at a place of the stack.
func (p *program) refuseLoopback6(at int16, name string) {
	for i := int16(0); i < 12; i += 4 {
		p.load(word, r1, r10, at+i)
		p.ifNot(r1, 0, name)
	}
	p.load(word, r1, r10, at+12)
	p.ifEqual(r1, int32(binary.NativeEndian.Uint32([]byte{15: 1}[12:])), "refuse")
	p.label(name)
}

// arrivingPeer makes the peer that a packet is from.
func arrivingPeer(p *program) { p.readHeaders(ip4Source, ip6Source, udpSource) }

// readHeaders makes the peer of the address at from4 or from6 and the port at port, and goes to "refuse"
// for all but plain UDP.
func (p *program) readHeaders(from4, from6, port int16) {
	p.load(word, r1, r6, skbProtocol)
	p.ifEqual(r1, onTheWire(unix.ETH_P_IP), "ip4")
	p.ifNot(r1, onTheWire(unix.ETH_P_IPV6), "refuse")

	p.readPacket(ip6Size + udpSize)
	p.load(octet, r1, r10, atPacket+ip6Next)
	p.ifNot(r1, unix.IPPROTO_UDP, "refuse") // an extension header may lead elsewhere
	for i := int16(0); i < 16; i += 4 {
		p.load(word, r1, r10, atPacket+from6+i)
		p.store(word, r10, atPeer+i, r1)
	}
	p.load(half, r1, r10, atPacket+ip6Size+port)
	p.store(word, r10, atPeer+16, r1)
	p.jump("peer")

	p.label("ip4")
	p.readPacket(ip4Size + udpSize)
	p.load(octet, r1, r10, atPacket)
	p.ifNot(r1, ip4NoOptions, "refuse") // a source route is an option
	p.load(octet, r1, r10, atPacket+ip4Protocol)
	p.ifNot(r1, unix.IPPROTO_UDP, "refuse")
	p.load(half, r1, r10, atPacket+ip4Fragment)
	p.and(r1, onTheWire(fragmentMask))
	p.ifNot(r1, 0, "refuse") // what is at the port's place may not be one
	p.storeMappedPrefix()
	p.load(word, r1, r10, atPacket+from4)
	p.store(word, r10, atPeer+12, r1)
	p.load(half, r1, r10, atPacket+ip4Size+port)
	p.store(word, r10, atPeer+16, r1)
	p.label("peer")
}

// readPacket copies the packet's first n bytes, from its IP header, to the stack.
func (p *program) readPacket(n int32) {
	p.move(r1, r6)
	p.moveValue(r2, 0)
	p.stack(r3, atPacket)
	p.moveValue(r4, n)
	p.call(loadBytes)
	p.ifNot(r0, 0, "refuse")
}

// onTheWire returns how a number of two bytes in network order is loaded.
func onTheWire(n uint16) int32 {
	return int32(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n)))
}
