package main

import (
	"fmt"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done with datagram and any other sockets of the host.
func udpProbes() []probe {
	const out = "a datagram reaches a server in the host's network that never sent one"
	var all []probe
	add := func(name, tries string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "UDP", Tries: tries, Means: out, Witness: wire.WitnessNonce}, run})
	}
	add("udp-sendto", "sendto() anybody", udpSend("udp4", "udp4", sendTo))
	add("udp-sendmsg", "sendmsg() to anybody", udpSend("udp4", "udp4", sendMsg))
	add("udp-sendmmsg", "sendmmsg() to anybody", udpSend("udp4", "udp4", sendMmsg))
	add("udp-sendto-v6", "sendto() anybody over IPv6", udpSend("udp6", "udp6", sendTo))
	add("udp-sendto-mapped", "the IPv6 socket to a v4-mapped address", udpSend("udp6", "mappedudp4", sendTo))
	add("udp-own-socket", "socket() and sendto() of its own", udpOwn("udp4"))
	add("udp-own-socket-v6", "the same over IPv6", udpOwn("udp6"))
	add("udp-connect", "connect() and send()", udpConnect("udp4"))
	add("udp-connect-v6", "connect() and send() over IPv6", udpConnect("udp6"))
	add("udp-source-route", "sendmsg() to a peer with IP_RETOPTS: a source route over somebody else", sourceRoute)
	all = append(all, linkProbes()...)
	ioctl := func(name, tries, means string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "ioctl", Tries: tries, Means: means, Witness: wire.WitnessKernel}, run})
	}
	ioctl("ioctl-interfaces", "SIOCGIFCONF on an inherited socket", "an interface of the host is listed", interfaces(0))
	ioctl("ioctl-interfaces-high-bits", "the same with bits above the 32 that the kernel looks at", "an interface of the host is listed", interfaces(highBit))
	ioctl("ioctl-change", "SIOCSIFTXQLEN on an inherited socket, the value that is set", "the kernel accepts a change to the host's lo", changeInterface)
	ioctl("ioctl-netns", "SIOCGSKNS on an inherited socket, then setns() and connect()", "bytes exchanged with a server in the host's network", socketNamespace)
	all[len(all)-1].Witness = wire.WitnessNonce
	return all
}

// sendMmsg is sendmmsg(2) with one message.
func sendMmsg(fd int, data []byte, flags int, to unix.Sockaddr) error {
	raw, err := rawOf(to)
	if err != nil {
		return err
	}
	vector := unix.Iovec{Base: &data[0]}
	vector.SetLen(len(data))
	message := struct {
		unix.Msghdr
		sent uint32
		_    uint32
	}{Msghdr: unix.Msghdr{Name: &raw[0], Namelen: uint32(len(raw)), Iov: &vector, Iovlen: 1}}
	return at("sendmmsg", call(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&message)), 1, uintptr(flags)))
}

func udpSend(name, witness string, send sender) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.socket(name)
		if err != nil {
			return "", err
		}
		to, err := m.address(witness)
		if err != nil {
			return "", err
		}
		if err := send(fd, []byte(m.Nonce+"\n"), 0, to); err != nil {
			return "", err
		}
		m.sent = name
		return "the kernel took the datagram", nil
	}
}

func udpOwn(witness string) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := unix.Socket(map[string]int{"udp4": unix.AF_INET, "udp6": unix.AF_INET6}[witness], unix.SOCK_DGRAM, 0)
		if err != nil {
			return "", at("socket", err)
		}
		to, err := m.address(witness)
		if err != nil {
			return "", err
		}
		return "the kernel took the datagram", sendTo(fd, []byte(m.Nonce+"\n"), 0, to)
	}
}

func udpConnect(name string) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.socket(name)
		if err != nil {
			return "", err
		}
		to, err := m.address(name)
		if err != nil {
			return "", err
		}
		if err := unix.Connect(fd, to); err != nil {
			return "", at("connect", err)
		}
		if _, err := unix.Write(fd, []byte(m.Nonce+"\n")); err != nil {
			return "", at("write", err)
		}
		return "the kernel took the datagram", nil
	}
}

// sourceRoute answers a peer, as it may, but over another host: with a loose
// source route, ip(7) and RFC 791, the packet's first destination is the first
// address of the route, and a filter that looks at the peer's does not see it.
func sourceRoute(m *mission) (string, error) {
	fd, err := m.socket("udp4")
	if err != nil {
		return "", err
	}
	if err := readable(fd, waitTimeout); err != nil {
		return "", at("no udp4 client", err)
	}
	_, peer, err := unix.Recvfrom(fd, make([]byte, 512), 0)
	if err != nil {
		return "", at("recvfrom", err)
	}
	const ipRetopts, lsrr = 7, 131
	options := []byte{lsrr, 7, 4, 127, 0, 0, 77, 0} // 127.0.0.77: the witness sniffs for it
	oob := make([]byte, unix.CmsgSpace(len(options)))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	header.Level, header.Type = unix.IPPROTO_IP, ipRetopts
	header.SetLen(unix.CmsgLen(len(options)))
	copy(oob[unix.CmsgLen(0):], options)
	if err := unix.Sendmsg(fd, []byte(m.Nonce+"\n"), oob, peer, 0); err != nil {
		return "", at("sendmsg IP_RETOPTS", err)
	}
	return "the kernel took a datagram routed over 127.0.0.77", nil
}

// interfaces finds a name of the host's among those of SIOCGIFCONF, netdevice(7).
func interfaces(bits uintptr) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.socket("tcp4")
		if err != nil {
			return "", err
		}
		var list [64][40]byte // struct ifreq
		request := struct {
			length int32
			_      int32
			list   unsafe.Pointer
		}{length: int32(len(list) * 40), list: unsafe.Pointer(&list)}
		if err := call(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFCONF|bits, uintptr(unsafe.Pointer(&request))); err != nil {
			return "", at("ioctl SIOCGIFCONF", err)
		}
		for i := range int(request.length) / 40 {
			for _, name := range m.Interfaces {
				if unix.ByteSliceToString(list[i][:16]) == name {
					return "the host has " + name, nil
				}
			}
		}
		return "", fmt.Errorf("SIOCGIFCONF: none of the host's among %d interfaces", request.length/40)
	}
}

func changeInterface(m *mission) (string, error) {
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return "", err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFTXQLEN, lo); err != nil {
		return "", at("ioctl SIOCGIFTXQLEN", err)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFTXQLEN, lo); err != nil {
		return "", at("ioctl SIOCSIFTXQLEN", err)
	}
	return "changed the queue of an interface to what it was", nil
}

func socketNamespace(m *mission) (string, error) {
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	namespace, err := valueOf(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGSKNS)
	if err != nil {
		return "", at("ioctl SIOCGSKNS", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNET); err != nil {
		return "", at("setns", err)
	}
	return ownSocket("tcp4")(m)
}
