package sandbox

import "golang.org/x/sys/unix"

// The options of sockets that a sealed service may set, by level: a socket it
// inherits is shared with us and with its next instance, and keeps what was set.
// Everything else gets ENOPROTOOPT, which programs take for an old kernel. Refused
// on purpose, among others:
//
//   - SO_ATTACH_FILTER, _BPF, _REUSEPORT_*, SO_LOCK_FILTER: the next instance sees
//     nothing, and cannot change that;
//   - SO_BINDTODEVICE, SO_BINDTOIFINDEX, SO_MARK, SO_DONTROUTE, IP_UNICAST_IF,
//     IP_TRANSPARENT, IP_FREEBIND, IPV6_PKTINFO, IP_OPTIONS, IPV6_RTHDR, _HOPOPTS, _DSTOPTS:
//     other ways and other addresses than the socket was bound for;
//   - TCP_FASTOPEN_CONNECT: a connect without connect; TCP_FASTOPEN_KEY, _NO_COOKIE:
//     who may open fast;
//   - TCP_MD5SIG, TCP_AO_*, IP_XFRM_POLICY, IP_IPSEC_POLICY, IP_MINTTL: clients without
//     the key, or too far away, are ignored from now on;
//   - TCP_REPAIR*, TCP_ULP, IPV6_ADDRFORM, UDP_ENCAP: the socket becomes something else.
//     Without TCP_ULP there is no kernel TLS, so the options of SOL_TLS are not here either;
//   - memberships and interfaces of multicast and anycast: more than it was bound for;
//   - SO_PEEK_OFF, SO_RCVLOWAT, SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_NO_CHECK, SO_RESERVE_MEM,
//     SO_BUF_LOCK, TCP_MAXSEG, TCP_WINDOW_CLAMP, TCP_TX_DELAY, IPV6_MTU, IP_TTL, IPV6_UNICAST_HOPS:
//     starve the next instance, or mislead it;
//   - SO_PASSRIGHTS: pass_rights = false is the configuration's.
//
// What is left of that kind has too many users to be refused, and has to be set back
// before the next start: buffer sizes, timeouts, SO_LINGER, UDP_CORK, UDP_SEGMENT, UDP_GRO,
// IP_MTU_DISCOVER, the IP_RECV* and IPV6_RECV* that add to what is received, and TCP's, which
// accepted connections inherit from their listener.
var harmless = [...]struct {
	level uint32
	names []uint32
}{
	{unix.SOL_SOCKET, []uint32{
		unix.SO_REUSEADDR, unix.SO_REUSEPORT, unix.SO_KEEPALIVE, unix.SO_LINGER, unix.SO_OOBINLINE, unix.SO_PRIORITY,
		unix.SO_BROADCAST, // every UDP socket of a Go program
		unix.SO_SNDBUF, unix.SO_RCVBUF, unix.SO_RCVTIMEO_OLD, unix.SO_SNDTIMEO_OLD, unix.SO_RCVTIMEO_NEW, unix.SO_SNDTIMEO_NEW,
		unix.SO_TIMESTAMP_OLD, unix.SO_TIMESTAMPNS_OLD, unix.SO_TIMESTAMPING_OLD,
		unix.SO_TIMESTAMP_NEW, unix.SO_TIMESTAMPNS_NEW, unix.SO_TIMESTAMPING_NEW,
		unix.SO_PASSCRED, unix.SO_PASSSEC, unix.SO_PASSPIDFD, unix.SO_RXQ_OVFL, unix.SO_SELECT_ERR_QUEUE, unix.SO_ZEROCOPY,
		unix.SO_RCVPRIORITY, unix.SO_INQ,
	}},
	{unix.IPPROTO_TCP, []uint32{
		unix.TCP_NODELAY, unix.TCP_CORK, unix.TCP_QUICKACK, unix.TCP_KEEPIDLE, unix.TCP_KEEPINTVL, unix.TCP_KEEPCNT,
		unix.TCP_USER_TIMEOUT, unix.TCP_SYNCNT, unix.TCP_LINGER2, unix.TCP_DEFER_ACCEPT, unix.TCP_CONGESTION,
		unix.TCP_THIN_LINEAR_TIMEOUTS, unix.TCP_THIN_DUPACK, unix.TCP_NOTSENT_LOWAT, unix.TCP_SAVE_SYN, unix.TCP_INQ,
		unix.TCP_FASTOPEN, // a server's: how many may wait
	}},
	{unix.IPPROTO_UDP, []uint32{unix.UDP_CORK, unix.UDP_SEGMENT, unix.UDP_GRO}},
	{unix.IPPROTO_IP, []uint32{
		unix.IP_TOS, unix.IP_MTU_DISCOVER, unix.IP_BIND_ADDRESS_NO_PORT, unix.IP_CHECKSUM,
		unix.IP_PKTINFO, unix.IP_RECVERR, unix.IP_RECVERR_RFC4884, unix.IP_RECVTTL, unix.IP_RECVTOS, unix.IP_RECVOPTS,
		unix.IP_RECVORIGDSTADDR, unix.IP_RECVFRAGSIZE, unix.IP_PASSSEC,
		unix.IP_HDRINCL, // only raw sockets have it
	}},
	{unix.IPPROTO_IPV6, []uint32{
		unix.IPV6_V6ONLY, unix.IPV6_TCLASS, unix.IPV6_MTU_DISCOVER, unix.IPV6_DONTFRAG, unix.IPV6_AUTOFLOWLABEL,
		unix.IPV6_RECVPKTINFO, unix.IPV6_2292PKTINFO, unix.IPV6_RECVERR, unix.IPV6_RECVERR_RFC4884, unix.IPV6_RECVHOPLIMIT, unix.IPV6_2292HOPLIMIT,
		unix.IPV6_RECVTCLASS, unix.IPV6_RECVPATHMTU, unix.IPV6_RECVFRAGSIZE, unix.IPV6_RECVORIGDSTADDR,
		unix.IPV6_CHECKSUM, unix.IPV6_HDRINCL, // only raw sockets have them
	}},
	{unix.IPPROTO_ICMPV6, []uint32{unix.ICMPV6_FILTER}},
	{unix.SOL_RAW, []uint32{unix.ICMP_FILTER}},
	{unix.SOL_NETLINK, []uint32{
		unix.NETLINK_ADD_MEMBERSHIP, unix.NETLINK_DROP_MEMBERSHIP, unix.NETLINK_PKTINFO, unix.NETLINK_BROADCAST_ERROR,
		unix.NETLINK_NO_ENOBUFS, unix.NETLINK_CAP_ACK, unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK,
	}},
}

// options is for setsockopt(2): level and name are ints in registers.
func options(*wall) verdict {
	refused := refuse(unix.ENOPROTOOPT)
	var levels []one
	for _, h := range harmless {
		names := choose(fieldArg2, 0, refused, values(allow(), h.names...)...)
		levels = append(levels, values(names, h.level)...)
	}
	return choose(fieldArg1, 0, refused, levels...)
}
