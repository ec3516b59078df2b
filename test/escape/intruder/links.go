package main

import (
	"encoding/binary"
	"errors"
	"strconv"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// Datagrams to the address of a client, on another link than the one that it is on.
func linkProbes() []probe {
	const out = "a datagram leaves by a link on which nobody has asked"
	var all []probe
	add := func(name, tries, socket string, send func(m *mission, fd, link int, client unix.Sockaddr) error) {
		run := func(m *mission) (string, error) {
			link, err := strconv.Atoi(m.Witness["other link"])
			if err != nil {
				return "", errors.New("no witness on another link")
			}
			fd, client, err := m.clientOf(socket)
			if err != nil {
				return "", err
			}
			return "the kernel took the datagram", send(m, fd, link, client)
		}
		all = append(all, probe{wire.Probe{Name: name, Group: "UDP", Tries: tries, Means: out, Witness: wire.WitnessNonce}, run})
	}
	add("udp-link", "sendto() fe80::77 on another link than that of the client with this address", "udp6 fe80", func(m *mission, fd, link int, client unix.Sockaddr) error {
		to := *client.(*unix.SockaddrInet6)
		to.ZoneId = uint32(link)
		return at("sendto", unix.Sendto(fd, []byte(m.Nonce), 0, &to))
	})
	add("udp-link-pktinfo", "the same with the link in IPV6_PKTINFO", "udp6 fe80", func(m *mission, fd, link int, client unix.Sockaddr) error {
		to := *client.(*unix.SockaddrInet6)
		to.ZoneId = 0
		info := binary.NativeEndian.AppendUint32(make([]byte, 16), uint32(link))
		return sendFrom(m, fd, &to, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, info)
	})
	add("udp-link-v4", "sendmsg() 169.254.7.7 on another link, in IP_PKTINFO", "udp6 169.254", func(m *mission, fd, link int, client unix.Sockaddr) error {
		return sendFrom(m, fd, client, unix.IPPROTO_IP, unix.IP_PKTINFO, onLink(link))
	})
	add("udp-link-loopback", "a client of the loopback answered by a link, in IP_PKTINFO", "udp4 127", func(m *mission, fd, link int, client unix.Sockaddr) error {
		return sendFrom(m, fd, client, unix.IPPROTO_IP, unix.IP_PKTINFO, onLink(link))
	})
	return all
}

// onLink is struct in_pktinfo.
func onLink(link int) []byte {
	return append(binary.NativeEndian.AppendUint32(nil, uint32(link)), make([]byte, 8)...)
}

// clientOf receives until the client is one whose address begins so: "udp6 fe80".
func (m *mission) clientOf(which string) (fd int, client unix.Sockaddr, err error) {
	name, begins := which[:4], which[5:]
	if fd, err = m.socket(name); err != nil {
		return -1, nil, err
	}
	for {
		if err := readable(fd, waitTimeout); err != nil {
			return -1, nil, at("no client "+begins, err)
		}
		if _, client, err = unix.Recvfrom(fd, make([]byte, 512), 0); err != nil {
			return -1, nil, at("recvfrom", err)
		}
		var found bool
		switch a := client.(type) {
		case *unix.SockaddrInet4:
			found = begins == "127" && a.Addr[0] == 127
		case *unix.SockaddrInet6:
			found = begins == "fe80" && a.Addr[0] == 0xfe || begins == "169.254" && a.Addr[10] == 0xff && a.Addr[12] == 169
		}
		if found {
			return fd, client, nil
		}
	}
}
