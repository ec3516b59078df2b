// Package sockfilter makes UDP sockets that answer their clients and can send to
// no others, wherever they are passed.
//
//	p, err := sockfilter.Open(0)      // as root
//	sockets, err := p.MakeSockets(kinds) // not bound yet, and send to no address
//	err = p.Admit(sockets[0])        // from now on it answers the clients it hears
//	err = p.Forget(sockets[0])       // before it is closed
//
// [Listeners] do as much for TCP: a listener that accepts, and cannot connect.
//
// How. A socket belongs for good to the cgroup (v2) of the process that made it,
// cgroup_sk_alloc() in kernel/cgroup/cgroup.c, and that cgroup's programs run for
// it in whose hands and in which namespace it ever is. So a child that shares our
// descriptors is born into a cgroup with our programs, makes the sockets and ends
// (package netns); the cgroup's directory is removed at once, and the
// kernel keeps the programs for as long as a socket is open.
//
// The programs of the hooks recvmsg4 and recvmsg6 remember the sender of what
// the socket receives. Those of connect4, connect6 and sendmsg4 refuse what is not
// remembered, and that of egress, which sees every packet as it leaves, refuses
// what is not plain UDP to a remembered client. Each has a part:
//
//   - egress knows where a packet really goes: an address asked for may be that of
//     a client while a source route (IP_RETOPTS, a routing header) leads elsewhere
//     first. So packets with options or extension headers are refused.
//   - egress knows the interface that a packet leaves by. An address of one link
//     (fe80::, 169.254.0.0/16) is a client only by the interface it was heard by, which
//     the hook of ingress notes, as those of recvmsg do not see it. And what is from or
//     for an address of the loopback leaves by lo, whatever IP_PKTINFO asks for.
//   - ip_mc_output() sends a copy of an IPv4 multicast or broadcast to the host's
//     own listeners, and that copy belongs to no socket, so egress does not run for
//     it: connect4, connect6 (of a mapped address) and sendmsg4 must stop it before.
//
// What the programs know of a socket is in a table of its own, so a flood at one
// socket makes no other forget its clients. The table belongs to the socket and
// not to the program that holds it: the next instance of a service may answer
// the clients that the previous one heard, as it could without us; but not who has been
// silent for two minutes, and was not answered either. A relay forgets clients likewise. Forget,
// then Admit, starts anew.
//
// It does not decide which sockets are sealed, and binds none. It needs no files,
// no mounted cgroup file system and no compiler: Linux 5.15 (of which cgroup2
// beside net_cls and net_prio, 8520e224f547, is the newest part), CAP_BPF and
// CAP_NET_ADMIN for the programs, CAP_SYS_ADMIN to reach the cgroup file system.
//
// Limits. Of other addresses the interface does not count: answers may take another way than
// questions (several uplinks, load balancers that are only passed on the way in), and a
// service with several networks that have the same addresses may choose one by IP_PKTINFO.
// A client is the address that stands in a datagram as its sender: an attacker that can
// forge that, in a network that lets it, introduces any address it likes. A program that
// receives without asking for the address (recv(2) on a socket that is not
// connected) is not heard to receive. Where netfilter gives the answer another
// destination on its way out (SNAT in the INPUT chain), or IPsec encrypts it, the
// answer is refused: the packet no longer shows the client. What a corked IPv6
// socket is not allowed to send vanishes without an error.
package sockfilter
