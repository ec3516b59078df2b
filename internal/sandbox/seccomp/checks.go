package seccomp

import "golang.org/x/sys/unix"

// noNamespaces is for clone and unshare, whose flags are their first argument on
// both machines. CLONE_NEWTIME lies among the bits of clone's exit signal and is
// only unshare's; a signal that big is none (clone(2)).
func noNamespaces(*Profile) verdict {
	const news = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME
	return choose(fieldArg0, news, refuse(unix.EPERM), values(allow(), 0)...)
}

// personalities allows Linux, and the question which one it is. Podman also allows
// 32-bit Linux, for what uname(2) says; 32-bit programs do not run here.
func personalities(*Profile) verdict {
	const ask = 0xffffffff // personality(2)
	return choose(fieldArg0, 0, refuse(unix.EPERM), values(allow(), 0, ask)...)
}

// The calls that give a file its mode, in the one or the other argument: a program that is the
// service's user whoever starts it could be left in a folder that is the host's.
func changesMode(*Profile) verdict   { return setID(fieldArg1) }
func changesModeAt(*Profile) verdict { return setID(fieldArg2) }

func setID(mode uint32) verdict {
	return choose(mode, unix.S_ISUID|unix.S_ISGID, refuse(unix.EPERM), values(allow(), 0)...)
}

// opens is for open(2), opensAt for openat(2), which have a mode only where they may make a
// file; else the register holds anything.
func opens(*Profile) verdict   { return setIDNew(fieldArg1, fieldArg2) }
func opensAt(*Profile) verdict { return setIDNew(fieldArg2, fieldArg3) }

func setIDNew(flags, mode uint32) verdict {
	const makes = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	return choose(flags, makes, setID(mode), values(allow(), 0)...)
}

// processControls refuses three of prctl(2).
func processControls(*Profile) verdict {
	return choose(fieldArg0, 0, allow(), values(refuse(unix.EPERM),
		unix.PR_SET_MM,           // what /proc/PID/exe and cmdline show
		unix.PR_SET_PTRACER,      // lets processes outside debug this one (Yama)
		unix.PR_SET_MEMORY_MERGE, // pages shared with others by content: a side channel
	)...)
}

// noCoreLimit says yes to a new limit for core dumps, and leaves it at 1: with a pipe
// in core_pattern 0 still dumps (core(5), do_coredump in fs/coredump.c). Who sets
// it wants no dump, and some end where they cannot. To ask is free: no new limit, a
// pointer that is 0 in both halves.
func noCoreLimit(*Profile) verdict {
	asked := choose(fieldArg2+4, 0, refuse(0), values(allow(), 0)...)
	return choose(fieldArg1, 0, allow(), values(choose(fieldArg2, 0, refuse(0), values(asked, 0)...), unix.RLIMIT_CORE)...)
}

func noCoreLimitOld(*Profile) verdict {
	return choose(fieldArg0, 0, allow(), values(refuse(0), unix.RLIMIT_CORE)...)
}

// families is for socket(2): AF_UNIX, internet sockets of the common protocols, and
// the netlink family that lists interfaces and routes. With CAP_NET_RAW raw
// internet sockets too; never AF_PACKET, whose code has had too many holes.
func families(p *Profile) verdict {
	if p.engine {
		return engineFamilies(p)
	}
	raw := refuse(unix.EPERM)
	if p.keep&(1<<unix.CAP_NET_RAW) != 0 {
		raw = allow()
	}
	const kind = 0xf // SOCK_TYPE_MASK of include/linux/net.h: without SOCK_CLOEXEC and SOCK_NONBLOCK
	protocols := choose(fieldArg2, 0, refuse(unix.EPROTONOSUPPORT), values(allow(),
		unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_MPTCP)...)
	kinds := append(values(protocols, unix.SOCK_STREAM, unix.SOCK_DGRAM), values(raw, unix.SOCK_RAW, unix.SOCK_PACKET)...)
	internet := choose(fieldArg1, kind, refuse(unix.ESOCKTNOSUPPORT), kinds...)
	routes := choose(fieldArg2, 0, refuse(unix.EPROTONOSUPPORT), values(allow(), unix.NETLINK_ROUTE)...)
	cases := append(values(internet, unix.AF_INET, unix.AF_INET6), values(routes, unix.AF_NETLINK)...)
	return choose(fieldArg0, 0, refuse(unix.EAFNOSUPPORT), append(cases, values(allow(), unix.AF_UNIX)...)...)
}

// engineFamilies is for a container engine: unix sockets, by which its parts talk, and
// the netlink family with which its runtime brings lo up. It needs no internet socket. Where a
// container shall have them a supervisor tells the two apart.
func engineFamilies(p *Profile) verdict {
	internet := refuse(unix.EAFNOSUPPORT)
	if p.internet {
		internet = notify()
	}
	routes := choose(fieldArg2, 0, refuse(unix.EPROTONOSUPPORT), values(allow(), unix.NETLINK_ROUTE)...)
	cases := append(values(internet, unix.AF_INET, unix.AF_INET6), values(routes, unix.AF_NETLINK)...)
	return choose(fieldArg0, 0, refuse(unix.EAFNOSUPPORT), append(cases, values(allow(), unix.AF_UNIX)...)...)
}

func pairs(*Profile) verdict {
	return choose(fieldArg0, 0, refuse(unix.EAFNOSUPPORT), values(allow(), unix.AF_UNIX)...)
}

func connects(p *Profile) verdict {
	switch {
	case p.ask:
		return notify()
	case p.connect:
		return allow()
	}
	return refuse(unix.EPERM)
}

// binds leaves TCP to Landlock, where that can tell it from the rest. Elsewhere it is a
// supervisor's; and without one only an address of 12 bytes passes: struct sockaddr_nl, and
// too short for every internet socket, which wants 16 (inet_bind in net/ipv4/af_inet.c).
func binds(p *Profile) verdict {
	switch {
	case p.supervise:
		return notify()
	case p.tcp:
		return allow()
	}
	return choose(fieldArg2, 0, refuse(unix.EPERM), values(allow(), unix.SizeofSockaddrNetlink)...)
}

// listens is free where connect is refused: an accepted socket can then never
// become an unconnected one, and inet_listen() refuses every other state.
func listens(p *Profile) verdict {
	if p.supervise {
		return notify()
	}
	return allow()
}

// fastOpenSend is for sendto(2) and sendmmsg(2), fastOpenMessage for sendmsg(2):
// their flags are in a register, the address is not.
func fastOpenSend(*Profile) verdict    { return fastOpen(fieldArg3) }
func fastOpenMessage(*Profile) verdict { return fastOpen(fieldArg2) }

func fastOpen(flags uint32) verdict {
	return choose(flags, unix.MSG_FASTOPEN, refuse(unix.EPERM), values(allow(), 0)...)
}

// controls is for ioctl(2), whose request is an unsigned int.
func controls(p *Profile) verdict {
	var cases []one
	if !p.all {
		cases = values(refuse(unix.EPERM),
			unix.TIOCSTI,   // types into a terminal, for the shell that reads it next
			unix.TIOCLINUX, // pastes into a console
			unix.TIOCCONS,  // takes the console's output
			unix.TIOCSETD,  // line disciplines: old drivers with many holes
		)
	}
	if p.seal {
		// sockios.h: SIOC*, up to the wireless extensions. They read and change the
		// interfaces of the socket's network, the host's, and SIOCGSKNS even opens it. Of the
		// few that are about the socket itself the harmless ones stay.
		const first, last = 0x8903, 0x8907 // FIOGETOWN, SIOCGPGRP, SIOCATMARK, SIOCGSTAMP, SIOCGSTAMPNS
		cases = append(cases, one{0x8900, first - 1, refuse(unix.EPERM)})
		rest := uint32(last + 1)
		if p.internet { // with an internet socket crun brings lo up
			cases = append(cases, one{rest, unix.SIOCSIFFLAGS - 1, refuse(unix.EPERM)}, one{unix.SIOCSIFFLAGS, unix.SIOCSIFFLAGS, notify()})
			rest = unix.SIOCSIFFLAGS + 1
		}
		cases = append(cases, one{rest, 0x8bff, refuse(unix.EPERM)})
	}
	if len(cases) == 0 {
		return allow()
	}
	return choose(fieldArg1, 0, allow(), cases...)
}
