package udpfilter

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// A peer is a key of a socket's table: sixteen bytes of address (an IPv4 one as
// mapped, so that a dual-stack socket has one table), two of port, both as on the
// wire, and two of nothing. An IPv6 scope is not part of it.
const peerSize = 20

// Places on the stack of every program, from its end.
const (
	atPeer   = -24 // the peer asked about
	atCookie = -32 // the socket's cookie
	atNoted  = -40 // the value of a peer
	atPacket = -88 // the packet's first 48 bytes
)

// Offsets in struct bpf_sock_addr, linux/bpf.h.
const (
	userIP4  = 4
	userIP6  = 8
	userPort = 24
)

// skbProtocol is an offset in struct __sk_buff, linux/bpf.h.
const skbProtocol = 16

// The header of IPv4 (RFC 791), of IPv6 (RFC 8200) and of UDP after them.
const (
	ip4Size, ip6Size       = 20, 40
	ip4Fragment            = 6
	ip4Protocol            = 9
	ip4Destination         = 16
	ip6Next                = 6
	ip6Destination         = 24
	udpSize, udpPort       = 8, 2
	ip4NoOptions     int32 = 0x45 // version 4, five words
	fragmentMask           = 0x3fff
)

// tables are the descriptors of the two maps that the programs share.
type tables struct {
	slots    int // cookie -> number of a table
	byNumber int // number -> the table
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
		{"egress", unix.BPF_PROG_TYPE_CGROUP_SKB, unix.BPF_CGROUP_INET_EGRESS, func(t tables) *program { return checkPeers(t, packetPeer) }},
	}
}

// learnPeers remembers the peer. The lookup comes first because it is cheap and marks
// the peer as used, where an update takes locks. The kernel takes 1 only.
func learnPeers(t tables, peer func(*program)) *program {
	p := newProgram()
	p.move(r6, r1)
	peer(p)
	p.lookUpPeer(t)
	p.ifNot(r0, 0, "done")
	p.moveValue(r1, 1)
	p.store(doubleWord, r10, atNoted, r1)
	p.move(r1, r7)
	p.stack(r2, atPeer)
	p.stack(r3, atNoted)
	p.moveValue(r4, unix.BPF_ANY)
	p.call(mapUpdate) // of a table that is full: the peer not heard for longest goes
	p.label("refuse") // no table yet: nothing to remember in
	p.label("done")
	p.result(1)
	return p
}

// checkPeers lets pass, with 1, what is for a remembered peer; anything else ends with
// EPERM for the sender.
func checkPeers(t tables, peer func(*program)) *program {
	p := newProgram()
	p.move(r6, r1)
	peer(p)
	p.lookUpPeer(t)
	p.ifEqual(r0, 0, "refuse")
	p.result(1)
	p.label("refuse")
	p.result(0)
	return p
}

// lookUpPeer leaves in r7 the table of the socket and in r0 the peer's entry in it,
// zero if there is none. Without a table it jumps to "refuse".
func (p *program) lookUpPeer(t tables) {
	p.move(r1, r6)
	p.call(socketCookie)
	p.store(doubleWord, r10, atCookie, r0)
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

// packetPeer makes the peer that a packet is for, and refuses all but plain UDP.
// The hook comes before a packet is cut into fragments or segments, so that the
// UDP header is always there (ip_finish_output(), ip6_finish_output()).
func packetPeer(p *program) {
	p.load(word, r1, r6, skbProtocol)
	p.ifEqual(r1, onTheWire(unix.ETH_P_IP), "ip4")
	p.ifNot(r1, onTheWire(unix.ETH_P_IPV6), "refuse")

	p.readPacket(ip6Size + udpSize)
	p.load(octet, r1, r10, atPacket+ip6Next)
	p.ifNot(r1, unix.IPPROTO_UDP, "refuse") // an extension header may lead elsewhere
	for i := int16(0); i < 16; i += 4 {
		p.load(word, r1, r10, atPacket+ip6Destination+i)
		p.store(word, r10, atPeer+i, r1)
	}
	p.load(half, r1, r10, atPacket+ip6Size+udpPort)
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
	p.load(word, r1, r10, atPacket+ip4Destination)
	p.store(word, r10, atPeer+12, r1)
	p.load(half, r1, r10, atPacket+ip4Size+udpPort)
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
