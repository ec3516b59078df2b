package sockopt

import (
	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// The constants that x/sys/unix lacks, from linux/tcp.h and linux/in6.h.
const (
	tcpAOInfo        = 40 // TCP_AO_INFO, Linux 6.7
	ipv6FlowInfo     = 11 // IPV6_FLOWINFO
	ipv6FlowInfoSend = 33 // IPV6_FLOWINFO_SEND
)

// Table has all options that a service could leave changed, of Linux 6.18, those that
// a sealed one may set, and those that the configuration sets, in an order in which each can
// be set, carried and restored without undoing another.
//
// A socket that a service inherits is shared with us and with its next instance, and keeps
// what was set. So a sealed service may set what is harmless, or has too many users to be
// refused and can be restored; everything else, known or not, gets ENOPROTOOPT, which
// programs take for an old kernel. Refused on purpose, among others:
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
//   - memberships and interfaces of multicast and anycast: more than it was bound for. How far and how
//     multicast goes is set unasked by every runtime, and of no use to a socket that only answers;
//   - SO_PEEK_OFF, SO_RCVLOWAT, SO_MAX_PACING_RATE, SO_INCOMING_CPU, SO_NO_CHECK, SO_RESERVE_MEM,
//     SO_BUF_LOCK, TCP_MAXSEG, TCP_WINDOW_CLAMP, TCP_TX_DELAY, IPV6_MTU, IP_TTL, IPV6_UNICAST_HOPS:
//     starve the next instance, or mislead it;
//   - SO_PASSRIGHTS: pass_rights = false is the configuration's.
//
// Own is what of these a socket of the service's own network may have: nothing outlives the service there,
// and nobody else is on it. A supervisor sets it, so no value with a pointer or a descriptor in it is among them.
//
// Ignored is SO_REUSEADDR: every server sets it, and on a UDP socket of ours it would let any user
// bind beside us and take the clients. SO_REUSEPORT lets nobody in but our own user.
//
// Withheld is what can harm a client that waits: it has what the listener had when it came, and nothing
// sets that back. TCP_USER_TIMEOUT and SO_LINGER reset it, with short times of keep-alives too where its
// network is silent for a moment; SO_RCVTIMEO and SO_SNDTIMEO end the next instance's calls; small
// buffers, an odd TCP_CONGESTION and a path's MTU that is not looked for make it wait; with IP_RECVERR an ICMP
// message ends it that would pass; with TCP_DEFER_ACCEPT a client that waits to be spoken to is not seen for
// minutes, also when it is set back; TCP_CORK delays each small answer. Setting one on a listener of ours
// seems to work. The other allowed ones harm nobody: they do what they do on every connection of some server.
//
// Not carried, though allowed:
//
//   - SO_REUSEPORT: it lets others bind beside us; that is reuse_port's;
//   - IPV6_V6ONLY, IP_BIND_ADDRESS_NO_PORT: too late for a bound socket; the former is bind_ipv6_only's;
//   - TCP_CONGESTION, TCP_NOTSENT_LOWAT, IPV6_AUTOFLOWLABEL, TCP_LINGER2, TCP_SYNCNT: what is fresh
//     differs from namespace to namespace, so that cannot be told from what was set;
//   - IP_MULTICAST_* and IPV6_MULTICAST_*: of no use to a socket that only answers;
//   - TCP_CORK, TCP_QUICKACK, UDP_CORK: of a connection, or of a datagram that is being written.
//
// Not restored by the table: SO_BINDTODEVICE, filters, programs of a reuseport group and SO_ERROR,
// which the caller of Restore looks after. They have no persistent effect on a listener or a bound
// datagram socket: SO_INCOMING_CPU, which every packet changes, TCP_TIMESTAMP, TCP_QUEUE_SEQ,
// TCP_FASTOPEN_KEY as long as TCP_FASTOPEN is 0, SO_BUSY_POLL_BUDGET, SO_CNX_ADVICE, SO_BSDCOMPAT.
// Nothing shows them, so only a filter on system calls keeps them out: IP_IPSEC_POLICY,
// IP_XFRM_POLICY and their forms in IPv6 (they need CAP_NET_ADMIN over the socket's network),
// IPV6_FLOWLABEL_MGR (leases of labels, and answers that carry the label of their question).
var Table = []Option{
	{unix.SOL_SOCKET, unix.SO_DOMAIN, "IPV6_ADDRFORM", AsRead, Refused, 0, nil},                                                                                                              // what it changes
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, "IPV6_V6ONLY", AsRead, Allowed, 0, bindIPv6Only},                                                                                                   // before all that is of both families, and not after bind
	{unix.SOL_SOCKET, unix.SO_BINDTODEVICE, "SO_BINDTODEVICE", Unrestored, Own, 0, textKey("bind_to_device", func(o *spec.Options) string { return o.BindToDevice }).needing("CAP_NET_RAW")}, // see State.Moved
	{unix.SOL_SOCKET, unix.SO_LOCK_FILTER, "SO_LOCK_FILTER", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, "SO_REUSEADDR", AsRead, Ignored, 0, reuseAddress},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, "SO_REUSEPORT", AsRead, Allowed, 0, boolKey("reuse_port", func(o *spec.Options) bool { return o.ReusePort })},
	{unix.SOL_SOCKET, unix.SO_DEBUG, "SO_DEBUG", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_DONTROUTE, "SO_DONTROUTE", AsRead, Own, 0, nil},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, "SO_BROADCAST", AsRead, Allowed | Carried, 0, boolKey("broadcast", func(o *spec.Options) bool { return o.Broadcast }).onRelay()}, // every UDP socket of a Go program sets it
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, "SO_KEEPALIVE", AsRead, Allowed | Carried, 0, boolKey("keep_alive", func(o *spec.Options) bool { return o.KeepAlive })},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, "SO_OOBINLINE", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_NO_CHECK, "SO_NO_CHECK", AsRead, Own, 0, nil},
	{unix.SOL_SOCKET, unix.SO_LINGER, "SO_LINGER", Lingered, Allowed | Withheld | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, "SO_RCVLOWAT", AsRead, Own, 0, nil}, // before SO_RCVBUF: it may raise that
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, "SO_RCVTIMEO", AsRead, Allowed | Withheld | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, "SO_SNDTIMEO", AsRead, Allowed | Withheld | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO_NEW, "SO_RCVTIMEO_NEW", Unrestored, Allowed | Withheld, 0, nil},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO_NEW, "SO_SNDTIMEO_NEW", Unrestored, Allowed | Withheld, 0, nil},
	{unix.SOL_SOCKET, unix.SO_RCVBUF, "SO_RCVBUF", Halved, Allowed | Withheld | Carried, 0, numberKey("receive_buffer", func(o *spec.Options) int { return o.ReceiveBuffer })},
	{unix.SOL_SOCKET, unix.SO_SNDBUF, "SO_SNDBUF", Halved, Allowed | Withheld | Carried, 0, numberKey("send_buffer", func(o *spec.Options) int { return o.SendBuffer }).onRelay()},
	{unix.SOL_SOCKET, unix.SO_BUF_LOCK, "SO_BUF_LOCK", AsRead, Refused, 0, nil}, // after the two, which set it
	{unix.SOL_SOCKET, unix.SO_RESERVE_MEM, "SO_RESERVE_MEM", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_OLD, "SO_TIMESTAMP", AsRead, Allowed | Carried, 0, stampsKey("us")}, // 0 in any form clears all
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_OLD, "SO_TIMESTAMPNS", AsRead, Allowed | Carried, 0, stampsKey("ns")},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, "SO_TIMESTAMP_NEW", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, "SO_TIMESTAMPNS_NEW", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_OLD, "SO_TIMESTAMPING", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, "SO_TIMESTAMPING_NEW", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_MARK, "SO_MARK", AsRead, Refused, 0, numberKey("mark", func(o *spec.Options) int { return int(o.Mark) }).needing("CAP_NET_ADMIN")},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, "SO_RXQ_OVFL", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_WIFI_STATUS, "SO_WIFI_STATUS", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, "SO_PEEK_OFF", AsRead, Own, 0, nil},
	{unix.SOL_SOCKET, unix.SO_NOFCS, "SO_NOFCS", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, "SO_BUSY_POLL", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE", AsRead, Own, 0, nil},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, "SO_ZEROCOPY", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TXTIME, "SO_TXTIME", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_TXREHASH, "SO_TXREHASH", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_RCVMARK, "SO_RCVMARK", AsRead, Refused, 0, nil},
	{unix.SOL_SOCKET, unix.SO_RCVPRIORITY, "SO_RCVPRIORITY", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_INQ, "SO_INQ", Unrestored, Allowed, 0, nil},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, "SO_PASSCRED", AsRead, Allowed | Carried, 0, passCredentials},
	{unix.SOL_SOCKET, unix.SO_PASSSEC, "SO_PASSSEC", AsRead, Allowed | Carried, 0, boolKey("pass_security", func(o *spec.Options) bool { return o.PassSecurity })},
	{unix.SOL_SOCKET, unix.SO_PASSPIDFD, "SO_PASSPIDFD", AsRead, Allowed | Carried, 0, nil},
	{unix.SOL_SOCKET, unix.SO_PASSRIGHTS, "SO_PASSRIGHTS", AsRead, Refused, 0, passRights}, // a client that connected meanwhile keeps it
	{unix.IPPROTO_IP, unix.IP_TOS, "IP_TOS", AsRead, Allowed | Carried, 0, ipTOS},          // before SO_PRIORITY: it sets that too
	{unix.SOL_SOCKET, unix.SO_PRIORITY, "SO_PRIORITY", Derived, Allowed | Carried, 0, givenKey("priority", func(o *spec.Options) (int, bool) { return o.Priority, o.PrioritySet }).needing("CAP_NET_ADMIN for more than 6")},
	{unix.IPPROTO_IP, unix.IP_TTL, "IP_TTL", MinusOne, Own | Carried, 64, ipTTL}, // of an unsealed program
	{unix.IPPROTO_IP, unix.IP_OPTIONS, "IP_OPTIONS", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RECVOPTS, "IP_RECVOPTS", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RETOPTS, "IP_RETOPTS", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, "IP_PKTINFO", AsRead, Allowed | Carried | Datagram, 0, packetInfo},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, "IP_MTU_DISCOVER", AsRead, Allowed | Carried | Withheld, unix.IP_PMTUDISC_WANT, nil},
	{unix.IPPROTO_IP, unix.IP_RECVERR, "IP_RECVERR", AsRead, Allowed | Carried | Withheld, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RECVERR_RFC4884, "IP_RECVERR_RFC4884", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, "IP_RECVTTL", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, "IP_RECVTOS", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_FREEBIND, "IP_FREEBIND", AsRead, Own, 0, freeBind},
	{unix.IPPROTO_IP, unix.IP_PASSSEC, "IP_PASSSEC", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT", AsRead, Refused, 0, transparent},
	{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_MINTTL, "IP_MINTTL", AsRead, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_CHECKSUM, "IP_CHECKSUM", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT", AsRead, Allowed, 0, nil},
	{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, "IP_RECVFRAGSIZE", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_IF, "IP_MULTICAST_IF", Unreadable, Own | Datagram, 0, nil}, // the address is read, the index is not
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, "IP_MULTICAST_TTL", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, "IP_MULTICAST_ALL", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IP, unix.IP_UNICAST_IF, "IP_UNICAST_IF", AsRead, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, "IP_LOCAL_PORT_RANGE", AsRead, Own, 0, nil},

	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", MinusOne, Own | Carried, 64, ipTTL}, // as IP_TTL
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, "IPV6_MULTICAST_ALL", AsRead, Allowed | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, "IPV6_UNICAST_IF", AsRead, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", AsRead, Allowed | Carried | Withheld, unix.IPV6_PMTUDISC_WANT, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU, "IPV6_MTU", Unreadable, Own, 0, nil},             // it reads the path's
	{unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, "IPV6_PKTINFO", Unreadable, Refused, 0, nil}, // the source of what it sends
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, "IPV6_RECVERR", AsRead, Allowed | Carried | Withheld, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR_RFC4884, "IPV6_RECVERR_RFC4884", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_IPV6, ipv6FlowInfo, "IPV6_FLOWINFO", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, ipv6FlowInfoSend, "IPV6_FLOWINFO_SEND", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_2292PKTINFO, "IPV6_2292PKTINFO", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPOPTS, "IPV6_2292HOPOPTS", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_2292DSTOPTS, "IPV6_2292DSTOPTS", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_2292RTHDR, "IPV6_2292RTHDR", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, "IPV6_2292HOPLIMIT", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", AsRead, Allowed | Carried | Datagram, 0, packetInfo},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPOPTS, "IPV6_RECVHOPOPTS", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVRTHDR, "IPV6_RECVRTHDR", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVDSTOPTS, "IPV6_RECVDSTOPTS", AsRead, Own | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPATHMTU, "IPV6_RECVPATHMTU", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, "IPV6_RECVTCLASS", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, "IPV6_RECVORIGDSTADDR", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, "IPV6_RECVFRAGSIZE", AsRead, Allowed | Carried | Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, "IPV6_HOPOPTS", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RTHDRDSTOPTS, "IPV6_RTHDRDSTOPTS", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_RTHDR, "IPV6_RTHDR", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, "IPV6_DSTOPTS", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, "IPV6_DONTFRAG", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, "IPV6_TCLASS", MinusOne, Allowed | Carried, 0, ipTOS},
	{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, "IPV6_AUTOFLOWLABEL", AsRead, Allowed, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, "IPV6_ADDR_PREFERENCES", AsRead, Refused, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT", AsRead, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_ROUTER_ALERT_ISOLATE, "IPV6_ROUTER_ALERT_ISOLATE", AsRead, Datagram, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT", AsRead, Refused, 0, transparent},
	{unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, "IPV6_FREEBIND", AsRead, Own, 0, freeBind},

	{unix.IPPROTO_TCP, unix.TCP_NODELAY, "TCP_NODELAY", AsRead, Allowed | Carried, 0, boolKey("no_delay", func(o *spec.Options) bool { return o.NoDelay })},
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG, "TCP_MAXSEG", Unreadable, Own, 0, nil}, // it reads what a connection left, too
	{unix.IPPROTO_TCP, unix.TCP_CORK, "TCP_CORK", AsRead, Allowed | Withheld | Frequent, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, "TCP_KEEPIDLE", AsRead, Allowed | Withheld | Frequent | Carried, 7200, numberKey("keep_alive_time", func(o *spec.Options) int { return wholeSeconds(o.KeepAliveTime) })},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, "TCP_KEEPINTVL", AsRead, Allowed | Withheld | Frequent | Carried, 75, numberKey("keep_alive_interval", func(o *spec.Options) int { return wholeSeconds(o.KeepAliveInterval) })},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, "TCP_KEEPCNT", AsRead, Allowed | Withheld | Frequent | Carried, 9, numberKey("keep_alive_probes", func(o *spec.Options) int { return o.KeepAliveProbes })},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT, "TCP_SYNCNT", AsRead, Allowed, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_LINGER2, "TCP_LINGER2", Zeroed, Allowed, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", AsRead, Allowed | Carried | Withheld, 0, numberKey("defer_accept", func(o *spec.Options) int { return wholeSeconds(o.DeferAccept) })},
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP", AsRead, Own, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_QUICKACK, "TCP_QUICKACK", AsRead, Allowed, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_CONGESTION, "TCP_CONGESTION", AsRead, Allowed | Withheld, 0, textKey("tcp_congestion", func(o *spec.Options) string { return o.TCPCongestion }).needing("CAP_NET_ADMIN")},
	{unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_THIN_DUPACK, "TCP_THIN_DUPACK", Unrestored, Allowed, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", AsRead, Allowed | Withheld | Carried, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_REPAIR, "TCP_REPAIR", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN, "TCP_FASTOPEN", AsRead, Allowed | Carried, 0, nil}, // a server's: how many may wait
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, "TCP_FASTOPEN_NO_COOKIE", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT", AsRead, Allowed, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, "TCP_SAVE_SYN", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_ULP, "TCP_ULP", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_INQ, "TCP_INQ", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_TX_DELAY, "TCP_TX_DELAY", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, "TCP_RTO_MAX_MS", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_RTO_MIN_US, "TCP_RTO_MIN_US", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, unix.TCP_DELACK_MAX_US, "TCP_DELACK_MAX_US", AsRead, Refused, 0, nil},
	{unix.IPPROTO_TCP, tcpAOInfo, "TCP_AO_INFO", Persistent, Refused, 0, nil},

	// What MSG_MORE holds back, which nothing shows, would take the next answer
	// along to its own receiver: 0 sends it now. udp(7).
	{unix.IPPROTO_UDP, unix.UDP_CORK, "UDP_CORK", Unreadable, Allowed, 0, nil},
	{unix.IPPROTO_UDP, unix.UDP_ENCAP, "UDP_ENCAP", AsRead, Refused, 0, nil},
	{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, "UDP_NO_CHECK6_TX", AsRead, Refused, 0, nil},
	{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, "UDP_NO_CHECK6_RX", AsRead, Refused, 0, nil},
	{unix.IPPROTO_UDP, unix.UDP_SEGMENT, "UDP_SEGMENT", AsRead, Allowed | Carried, 0, nil},
	{unix.IPPROTO_UDP, unix.UDP_GRO, "UDP_GRO", AsRead, Allowed | Carried, 0, nil},

	{unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MAX_SIZE, "SO_VM_SOCKETS_BUFFER_MAX_SIZE", AsRead, Refused, 0, nil}, // the three clamp each other
	{unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_MIN_SIZE, "SO_VM_SOCKETS_BUFFER_MIN_SIZE", AsRead, Refused, 0, nil},
	{unix.AF_VSOCK, unix.SO_VM_SOCKETS_BUFFER_SIZE, "SO_VM_SOCKETS_BUFFER_SIZE", AsRead, Refused, 0, nil},
	{unix.AF_VSOCK, unix.SO_VM_SOCKETS_CONNECT_TIMEOUT_NEW, "SO_VM_SOCKETS_CONNECT_TIMEOUT", AsRead, Refused, 0, nil},

	// Of sockets that only a program itself can have: raw ones and netlink's.
	{unix.IPPROTO_IP, unix.IP_HDRINCL, "IP_HDRINCL", Unrestored, Allowed, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, "IPV6_CHECKSUM", Unrestored, Allowed, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, "IPV6_HDRINCL", Unrestored, Allowed, 0, nil},
	{unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, "ICMPV6_FILTER", Unrestored, Allowed, 0, nil},
	{unix.SOL_RAW, unix.ICMP_FILTER, "ICMP_FILTER", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, "NETLINK_ADD_MEMBERSHIP", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_DROP_MEMBERSHIP, "NETLINK_DROP_MEMBERSHIP", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_PKTINFO, "NETLINK_PKTINFO", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, "NETLINK_BROADCAST_ERROR", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, "NETLINK_NO_ENOBUFS", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, "NETLINK_CAP_ACK", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, "NETLINK_EXT_ACK", Unrestored, Allowed, 0, nil},
	{unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, "NETLINK_GET_STRICT_CHK", Unrestored, Allowed, 0, nil},

	// Memberships: on a socket of ours they are what the last row is about.
	{unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, "IP_ADD_MEMBERSHIP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_DROP_MEMBERSHIP, "IP_DROP_MEMBERSHIP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_ADD_SOURCE_MEMBERSHIP, "IP_ADD_SOURCE_MEMBERSHIP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_DROP_SOURCE_MEMBERSHIP, "IP_DROP_SOURCE_MEMBERSHIP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_BLOCK_SOURCE, "IP_BLOCK_SOURCE", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.IP_UNBLOCK_SOURCE, "IP_UNBLOCK_SOURCE", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_JOIN_GROUP, "MCAST_JOIN_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_LEAVE_GROUP, "MCAST_LEAVE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_JOIN_SOURCE_GROUP, "MCAST_JOIN_SOURCE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_LEAVE_SOURCE_GROUP, "MCAST_LEAVE_SOURCE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_BLOCK_SOURCE, "MCAST_BLOCK_SOURCE", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IP, unix.MCAST_UNBLOCK_SOURCE, "MCAST_UNBLOCK_SOURCE", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, "IPV6_JOIN_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.IPV6_LEAVE_GROUP, "IPV6_LEAVE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_JOIN_GROUP, "IPV6 MCAST_JOIN_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_LEAVE_GROUP, "IPV6 MCAST_LEAVE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_JOIN_SOURCE_GROUP, "IPV6 MCAST_JOIN_SOURCE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_LEAVE_SOURCE_GROUP, "IPV6 MCAST_LEAVE_SOURCE_GROUP", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_BLOCK_SOURCE, "IPV6 MCAST_BLOCK_SOURCE", Unrestored, Own, 0, nil},
	{unix.IPPROTO_IPV6, unix.MCAST_UNBLOCK_SOURCE, "IPV6 MCAST_UNBLOCK_SOURCE", Unrestored, Own, 0, nil},

	// Last: setting options of IPv6 back gives memory back. What no option shows
	// is charged here: keys of TCP_MD5SIG and TCP_AO_ADD_KEY, multicast and
	// anycast memberships with their source filters.
	{unix.SOL_SOCKET, unix.SO_MEMINFO, "an option that takes memory (TCP_MD5SIG, IP_ADD_MEMBERSHIP and others)", Memory, Refused, 0, nil},
}
