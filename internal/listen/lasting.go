package listen

import "golang.org/x/sys/unix"

// lasting is an option of a socket: it belongs to what all holders share, so it
// outlives who set it. What is read from a fresh socket is what the next
// instance shall find.
type lasting struct {
	level, name int
	text        string
	back        way
}

// way is how an option gets the value back that it had.
type way uint8

const (
	same     way = iota // written as it is read
	halved              // the kernel doubles it; with the FORCE form first
	lingered            // the time is written only while it is on
	minusOne            // -1 lets the kernel decide again; else as it is read
	zeroInt             // 0 does
	blind               // cannot be read, or reads other things too: 0 is written each time
	appears             // an error until the service sets it; never goes
	optmem              // what options without a value took of net.core.optmem_max; never goes

	gram way = 0x80 // TCP has no use for it, so a stream socket is not asked
)

// The constants that x/sys/unix lacks, from asm-generic/socket.h and linux/tcp.h,
// linux/in.h, linux/udp.h.
const (
	soRcvPriority = 82 // 6.14
	tcpAOInfo     = 40 // 6.7
	tcpRTOMaxMS   = 44 // 6.15
	tcpRTOMinUS   = 45 // 6.18
	tcpDelackUS   = 46 // 6.18
	udpCork       = 1
	udpNoCheckTX  = 101
	udpNoCheckRX  = 102
	ipv6Preferred = 72 // IPV6_ADDR_PREFERENCES
	ipv6MinHops   = 73
	ipv6RAIsolate = 30 // IPV6_ROUTER_ALERT_ISOLATE
	ipv6FlowInfo  = 11
	ipv6FlowSend  = 33
	vmBufferSize  = 0 // linux/vm_sockets.h; these are 64 bits
	vmBufferMin   = 1
	vmBufferMax   = 2
	vmConnectTime = 8
)

// lastings are all options that a service could leave changed, of Linux 6.18, in
// an order in which each can be set back without undoing another.
//
// Not here, and why. Something else in Mend has them: SO_BINDTODEVICE, filters,
// programs of a reuseport group, SO_ERROR. They have no lasting effect on a
// listener or a bound datagram socket: SO_INCOMING_CPU, which every packet
// changes, TCP_TIMESTAMP, TCP_QUEUE_SEQ, TCP_FASTOPEN_KEY as long as TCP_FASTOPEN
// is 0, SO_INQ, SO_BUSY_POLL_BUDGET, SO_CNX_ADVICE, SO_BSDCOMPAT. Nothing shows them, so only a filter on
// system calls keeps them out: IP_IPSEC_POLICY, IP_XFRM_POLICY and their forms in
// IPv6 (they need CAP_NET_ADMIN over the socket's network), IPV6_FLOWLABEL_MGR
// (leases of labels, and answers that carry the label of their question).
var lastings = []lasting{
	{unix.SOL_SOCKET, unix.SO_DOMAIN, "IPV6_ADDRFORM", same}, // what it changes
	{unix.SOL_SOCKET, unix.SO_LOCK_FILTER, "SO_LOCK_FILTER", same},
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, "SO_REUSEADDR", same},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, "SO_REUSEPORT", same},
	{unix.SOL_SOCKET, unix.SO_DEBUG, "SO_DEBUG", same},
	{unix.SOL_SOCKET, unix.SO_DONTROUTE, "SO_DONTROUTE", same},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, "SO_BROADCAST", same},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, "SO_KEEPALIVE", same},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, "SO_OOBINLINE", same},
	{unix.SOL_SOCKET, unix.SO_NO_CHECK, "SO_NO_CHECK", same},
	{unix.SOL_SOCKET, unix.SO_LINGER, "SO_LINGER", lingered},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, "SO_RCVLOWAT", same}, // before SO_RCVBUF: it may raise that
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, "SO_RCVTIMEO", same},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, "SO_SNDTIMEO", same},
	{unix.SOL_SOCKET, unix.SO_RCVBUF, "SO_RCVBUF", halved},
	{unix.SOL_SOCKET, unix.SO_SNDBUF, "SO_SNDBUF", halved},
	{unix.SOL_SOCKET, unix.SO_BUF_LOCK, "SO_BUF_LOCK", same}, // after the two, which set it
	{unix.SOL_SOCKET, unix.SO_RESERVE_MEM, "SO_RESERVE_MEM", same},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_OLD, "SO_TIMESTAMP", same}, // 0 in any form clears all
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, "SO_TIMESTAMPNS", same},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, "SO_TIMESTAMP_NEW", same},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, "SO_TIMESTAMPNS_NEW", same},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_OLD, "SO_TIMESTAMPING", same},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, "SO_TIMESTAMPING_NEW", same},
	{unix.SOL_SOCKET, unix.SO_MARK, "SO_MARK", same},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, "SO_RXQ_OVFL", same},
	{unix.SOL_SOCKET, unix.SO_WIFI_STATUS, "SO_WIFI_STATUS", same},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, "SO_PEEK_OFF", same},
	{unix.SOL_SOCKET, unix.SO_NOFCS, "SO_NOFCS", same},
	{unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE", same},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, "SO_BUSY_POLL", same},
	{unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", same},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE", same},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, "SO_ZEROCOPY", same},
	{unix.SOL_SOCKET, unix.SO_TXTIME, "SO_TXTIME", same},
	{unix.SOL_SOCKET, unix.SO_TXREHASH, "SO_TXREHASH", same},
	{unix.SOL_SOCKET, unix.SO_RCVMARK, "SO_RCVMARK", same},
	{unix.SOL_SOCKET, soRcvPriority, "SO_RCVPRIORITY", same},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, "SO_PASSCRED", same},
	{unix.SOL_SOCKET, unix.SO_PASSSEC, "SO_PASSSEC", same},
	{unix.SOL_SOCKET, unix.SO_PASSPIDFD, "SO_PASSPIDFD", same},
	{unix.SOL_SOCKET, soPassRights, "SO_PASSRIGHTS", same}, // who connected meanwhile keeps it

	{unix.IPPROTO_IP, unix.IP_TOS, "IP_TOS", same}, // before SO_PRIORITY: it sets that
	{unix.SOL_SOCKET, unix.SO_PRIORITY, "SO_PRIORITY", same},
	{unix.IPPROTO_IP, unix.IP_TTL, "IP_TTL", minusOne},
	{unix.IPPROTO_IP, unix.IP_OPTIONS, "IP_OPTIONS", same},
	{unix.IPPROTO_IP, unix.IP_RECVOPTS, "IP_RECVOPTS", same | gram},
	{unix.IPPROTO_IP, unix.IP_RETOPTS, "IP_RETOPTS", same | gram},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, "IP_PKTINFO", same | gram},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, "IP_MTU_DISCOVER", same},
	{unix.IPPROTO_IP, unix.IP_RECVERR, "IP_RECVERR", same},
	{unix.IPPROTO_IP, unix.IP_RECVERR_RFC4884, "IP_RECVERR_RFC4884", same},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, "IP_RECVTTL", same | gram},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, "IP_RECVTOS", same | gram},
	{unix.IPPROTO_IP, unix.IP_FREEBIND, "IP_FREEBIND", same},
	{unix.IPPROTO_IP, unix.IP_PASSSEC, "IP_PASSSEC", same | gram},
	{unix.IPPROTO_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT", same},
	{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR", same | gram},
	{unix.IPPROTO_IP, unix.IP_MINTTL, "IP_MINTTL", same},
	{unix.IPPROTO_IP, unix.IP_CHECKSUM, "IP_CHECKSUM", same | gram},
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT", same},
	{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, "IP_RECVFRAGSIZE", same | gram},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_IF, "IP_MULTICAST_IF", blind | gram}, // the address is read, the index is not
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, "IP_MULTICAST_TTL", same | gram},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP", same | gram},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, "IP_MULTICAST_ALL", same | gram},
	{unix.IPPROTO_IP, unix.IP_UNICAST_IF, "IP_UNICAST_IF", same},
	{unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, "IP_LOCAL_PORT_RANGE", same},

	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, "IPV6_V6ONLY", same},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", minusOne},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, "IPV6_MULTICAST_ALL", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, "IPV6_UNICAST_IF", same},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", same},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU, "IPV6_MTU", blind},         // it reads the path's
	{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, "IPV6_PKTINFO", blind}, // the source of what it sends
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, "IPV6_RECVERR", same},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR_RFC4884, "IPV6_RECVERR_RFC4884", same},
	{unix.IPPROTO_IPV6, ipv6FlowInfo, "IPV6_FLOWINFO", same},
	{unix.IPPROTO_IPV6, ipv6FlowSend, "IPV6_FLOWINFO_SEND", same},
	{unix.IPPROTO_IPV6, unix.IPV6_2292PKTINFO, "IPV6_2292PKTINFO", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPOPTS, "IPV6_2292HOPOPTS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_2292DSTOPTS, "IPV6_2292DSTOPTS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_2292RTHDR, "IPV6_2292RTHDR", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, "IPV6_2292HOPLIMIT", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPOPTS, "IPV6_RECVHOPOPTS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVRTHDR, "IPV6_RECVRTHDR", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVDSTOPTS, "IPV6_RECVDSTOPTS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPATHMTU, "IPV6_RECVPATHMTU", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, "IPV6_RECVTCLASS", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, "IPV6_RECVORIGDSTADDR", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, "IPV6_RECVFRAGSIZE", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, "IPV6_HOPOPTS", same},
	{unix.IPPROTO_IPV6, unix.IPV6_RTHDRDSTOPTS, "IPV6_RTHDRDSTOPTS", same},
	{unix.IPPROTO_IPV6, unix.IPV6_RTHDR, "IPV6_RTHDR", same},
	{unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "IPV6_DSTOPTS", same},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, "IPV6_DONTFRAG", same},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, "IPV6_TCLASS", minusOne},
	{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, "IPV6_AUTOFLOWLABEL", same},
	{unix.IPPROTO_IPV6, ipv6Preferred, "IPV6_ADDR_PREFERENCES", same},
	{unix.IPPROTO_IPV6, ipv6MinHops, "IPV6_MINHOPCOUNT", same},
	{unix.IPPROTO_IPV6, ipv6RAIsolate, "IPV6_ROUTER_ALERT_ISOLATE", same | gram},
	{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT", same},
	{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, "IPV6_FREEBIND", same},

	{unix.IPPROTO_TCP, unix.TCP_NODELAY, "TCP_NODELAY", same},
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG, "TCP_MAXSEG", blind}, // it reads what a connection left, too
	{unix.IPPROTO_TCP, unix.TCP_CORK, "TCP_CORK", same},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, "TCP_KEEPIDLE", same},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, "TCP_KEEPINTVL", same},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, "TCP_KEEPCNT", same},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT, "TCP_SYNCNT", same},
	{unix.IPPROTO_TCP, unix.TCP_LINGER2, "TCP_LINGER2", zeroInt},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", same},
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP", same},
	{unix.IPPROTO_TCP, unix.TCP_QUICKACK, "TCP_QUICKACK", same},
	{unix.IPPROTO_TCP, unix.TCP_CONGESTION, "TCP_CONGESTION", same},
	{unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS", same},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", same},
	{unix.IPPROTO_TCP, unix.TCP_REPAIR, "TCP_REPAIR", same},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN, "TCP_FASTOPEN", same},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT", same},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, "TCP_FASTOPEN_NO_COOKIE", same},
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT", same},
	{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, "TCP_SAVE_SYN", same},
	{unix.IPPROTO_TCP, unix.TCP_ULP, "TCP_ULP", same},
	{unix.IPPROTO_TCP, unix.TCP_INQ, "TCP_INQ", same},
	{unix.IPPROTO_TCP, unix.TCP_TX_DELAY, "TCP_TX_DELAY", same},
	{unix.IPPROTO_TCP, tcpRTOMaxMS, "TCP_RTO_MAX_MS", same},
	{unix.IPPROTO_TCP, tcpRTOMinUS, "TCP_RTO_MIN_US", same},
	{unix.IPPROTO_TCP, tcpDelackUS, "TCP_DELACK_MAX_US", same},
	{unix.IPPROTO_TCP, tcpAOInfo, "TCP_AO_INFO", appears},

	// What MSG_MORE holds back, which nothing shows, would take the next answer
	// along to its own receiver: 0 sends it now. udp(7).
	{unix.IPPROTO_UDP, udpCork, "UDP_CORK", blind},
	{unix.IPPROTO_UDP, unix.UDP_ENCAP, "UDP_ENCAP", same},
	{unix.IPPROTO_UDP, udpNoCheckTX, "UDP_NO_CHECK6_TX", same},
	{unix.IPPROTO_UDP, udpNoCheckRX, "UDP_NO_CHECK6_RX", same},
	{unix.IPPROTO_UDP, unix.UDP_SEGMENT, "UDP_SEGMENT", same},
	{unix.IPPROTO_UDP, unix.UDP_GRO, "UDP_GRO", same},

	{unix.AF_VSOCK, vmBufferMax, "SO_VM_SOCKETS_BUFFER_MAX_SIZE", same}, // the three clamp each other
	{unix.AF_VSOCK, vmBufferMin, "SO_VM_SOCKETS_BUFFER_MIN_SIZE", same},
	{unix.AF_VSOCK, vmBufferSize, "SO_VM_SOCKETS_BUFFER_SIZE", same},
	{unix.AF_VSOCK, vmConnectTime, "SO_VM_SOCKETS_CONNECT_TIMEOUT", same},

	// Last: setting options of IPv6 back gives memory back. What no option shows
	// is charged here: keys of TCP_MD5SIG and TCP_AO_ADD_KEY, multicast and
	// anycast memberships with their source filters.
	{unix.SOL_SOCKET, unix.SO_MEMINFO, "an option that takes memory (TCP_MD5SIG, IP_ADD_MEMBERSHIP and others)", optmem},
}
