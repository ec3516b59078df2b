package seccomp

import "golang.org/x/sys/unix"

// noNamespaces is for clone and unshare, whose flags are their first argument on
// both machines. CLONE_NEWTIME lies among the bits of clone's exit signal and is
// only unshare's; a signal that big is none (clone(2)).
func noNamespaces(*Profile) verdict {
	const news = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME
	return newChoice(fieldArg0, news, refuseWith(unix.EPERM), casesOf(allowCall(), 0)...)
}

// checkPersonality allows Linux, and the question which one it is. Podman also allows
// 32-bit Linux, for what uname(2) says; 32-bit programs do not run here.
func checkPersonality(*Profile) verdict {
	const ask = 0xffffffff // personality(2)
	return newChoice(fieldArg0, 0, refuseWith(unix.EPERM), casesOf(allowCall(), 0, ask)...)
}

// The calls that give a file its mode, in the one or the other argument: a program that runs as the
// service's user for every caller could be left in a folder that is the host's.
func changesMode(*Profile) verdict { return setID(fieldArg1) }

func changesModeAt(*Profile) verdict { return setID(fieldArg2) }

func setID(mode uint32) verdict {
	return newChoice(mode, unix.S_ISUID|unix.S_ISGID, refuseWith(unix.EPERM), casesOf(allowCall(), 0)...)
}

func changesOwner(*Profile) verdict { return askSupervisor() }

// checkOpen is for open(2), opensAt for openat(2), which have a mode only where they may make a
// file; else the register holds anything.
func checkOpen(*Profile) verdict { return setIDNew(fieldArg1, fieldArg2) }

func opensAt(*Profile) verdict { return setIDNew(fieldArg2, fieldArg3) }

func setIDNew(flags, mode uint32) verdict {
	const makes = unix.O_CREAT | unix.O_TMPFILE&^unix.O_DIRECTORY
	return newChoice(flags, makes, setID(mode), casesOf(allowCall(), 0)...)
}

// processControls refuses three of prctl(2).
func processControls(*Profile) verdict {
	return newChoice(fieldArg0, 0, allowCall(), casesOf(refuseWith(unix.EPERM),
		unix.PR_SET_MM,           // what /proc/PID/exe and cmdline show
		unix.PR_SET_PTRACER,      // lets processes outside debug this one (Yama)
		unix.PR_SET_MEMORY_MERGE, // pages shared with others by content: a side channel
	)...)
}

// noLeases refuses what a program asks for once, and finds missing on file systems of the network too.
// A delegation is Linux 6.19's lease on a folder.
func noLeases(*Profile) verdict {
	const setDelegation = 1040 // F_SETDELEG
	return newChoice(fieldArg1, 0, allowCall(), casesOf(refuseWith(unix.EINVAL), unix.F_SETLEASE, unix.F_NOTIFY, setDelegation)...)
}

// noCoreLimit says yes to a new limit for core dumps, and leaves it at 1: with a pipe
// in core_pattern 0 still dumps (core(5), do_coredump in fs/coredump.c). Who sets
// it wants no dump, and some end where they cannot. To ask is free: no new limit, a
// pointer that is 0 in both halves.
func noCoreLimit(*Profile) verdict {
	asked := newChoice(fieldArg2+4, 0, refuseWith(0), casesOf(allowCall(), 0)...)
	return newChoice(fieldArg1, 0, allowCall(), casesOf(newChoice(fieldArg2, 0, refuseWith(0), casesOf(asked, 0)...), unix.RLIMIT_CORE)...)
}

func noCoreLimitOld(*Profile) verdict {
	return newChoice(fieldArg0, 0, allowCall(), casesOf(refuseWith(0), unix.RLIMIT_CORE)...)
}

// checkFamily is for socket(2): AF_UNIX, internet sockets of the common protocols, and
// the netlink family that lists interfaces and routes, with which an engine's runtime brings lo up.
func checkFamily(p *Profile) verdict {
	routes := newChoice(fieldArg2, 0, refuseWith(unix.EPROTONOSUPPORT), casesOf(allowCall(), unix.NETLINK_ROUTE)...)
	cases := append(casesOf(p.checkInternet(), unix.AF_INET, unix.AF_INET6), casesOf(routes, unix.AF_NETLINK)...)
	return newChoice(fieldArg0, 0, refuseWith(unix.EAFNOSUPPORT), append(cases, casesOf(allowCall(), unix.AF_UNIX)...)...)
}

// checkInternet answers for internet sockets. With CAP_NET_RAW raw ones too; never AF_PACKET,
// whose code has had too many holes. A container engine needs none. Where its container shall have
// them a supervisor tells the two apart.
func (p *Profile) checkInternet() verdict {
	switch {
	case p.internet:
		return askSupervisor()
	case p.engine:
		return refuseWith(unix.EAFNOSUPPORT)
	}
	raw := refuseWith(unix.EPERM)
	if p.keep&(1<<unix.CAP_NET_RAW) != 0 {
		raw = allowCall()
	}
	const kind = 0xf // SOCK_TYPE_MASK of include/linux/net.h: without SOCK_CLOEXEC and SOCK_NONBLOCK
	protocols := newChoice(fieldArg2, 0, refuseWith(unix.EPROTONOSUPPORT), casesOf(allowCall(),
		unix.IPPROTO_IP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6, unix.IPPROTO_MPTCP)...)
	kinds := append(casesOf(protocols, unix.SOCK_STREAM, unix.SOCK_DGRAM), casesOf(raw, unix.SOCK_RAW, unix.SOCK_PACKET)...)
	return newChoice(fieldArg1, kind, refuseWith(unix.ESOCKTNOSUPPORT), kinds...)
}

func checkPair(*Profile) verdict {
	return newChoice(fieldArg0, 0, refuseWith(unix.EAFNOSUPPORT), casesOf(allowCall(), unix.AF_UNIX)...)
}

func checkConnect(p *Profile) verdict {
	switch {
	case p.ask:
		return askSupervisor()
	case p.connect:
		return allowCall()
	}
	return refuseWith(unix.EPERM)
}

// checkBind leaves TCP to Landlock, where that can tell it from the rest. Elsewhere it is a
// supervisor's; and without one only an address of 12 bytes passes: struct sockaddr_nl, and
// too short for every internet socket, which wants 16 (inet_bind in net/ipv4/af_inet.c).
func checkBind(p *Profile) verdict {
	switch {
	case p.supervise, p.observe:
		return askSupervisor()
	case p.tcp:
		return allowCall()
	}
	return newChoice(fieldArg2, 0, refuseWith(unix.EPERM), casesOf(allowCall(), unix.SizeofSockaddrNetlink)...)
}

// checkListen is free where connect is refused: an accepted socket can then never
// become an unconnected one, and inet_listen() refuses every other state.
func checkListen(p *Profile) verdict {
	if p.supervise {
		return askSupervisor()
	}
	return allowCall()
}

// fastOpenSend is for sendto(2) and sendmmsg(2), fastOpenMessage for sendmsg(2):
// their flags are in a register, the address is not.
func fastOpenSend(*Profile) verdict { return fastOpen(fieldArg3) }

func fastOpenMessage(*Profile) verdict { return fastOpen(fieldArg2) }

func fastOpen(flags uint32) verdict {
	return newChoice(flags, unix.MSG_FASTOPEN, refuseWith(unix.EPERM), casesOf(allowCall(), 0)...)
}

// checkControl is for ioctl(2), whose request is an unsigned int.
func checkControl(p *Profile) verdict {
	var cases []one
	if !p.all {
		cases = casesOf(refuseWith(unix.EPERM),
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
		cases = append(cases, one{0x8900, first - 1, refuseWith(unix.EPERM)})
		rest := uint32(last + 1)
		if p.internet { // with an internet socket crun brings lo up
			cases = append(cases, one{rest, unix.SIOCSIFFLAGS - 1, refuseWith(unix.EPERM)}, one{unix.SIOCSIFFLAGS, unix.SIOCSIFFLAGS, askSupervisor()})
			rest = unix.SIOCSIFFLAGS + 1
		}
		cases = append(cases, one{rest, 0x8bff, refuseWith(unix.EPERM)})
	}
	if len(cases) == 0 {
		return allowCall()
	}
	return newChoice(fieldArg1, 0, allowCall(), cases...)
}
