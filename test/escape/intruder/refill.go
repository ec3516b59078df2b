package main

import (
	"errors"
	"fmt"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What we leave in our own queues, for the next instance to read: an exploit that is sent once would be there
// for ever.
func refillProbes() []probe {
	var all []probe
	add := func(name, socket, tries, means string, fill func(m *mission, fd int) error) {
		run := func(m *mission) (string, error) {
			fd, err := m.socket(socket)
			if err != nil {
				return "", err
			}
			return "the kernel took it", fill(m, fd)
		}
		all = append(all, probe{wire.Probe{Name: name, Group: "poison", Tries: tries, Means: means, Witness: wire.WitnessNext}, run})
	}
	const read = "the next instance reads it"
	add("refill-udp", "udp4", "sendto() the UDP socket itself", read, sendToItself)
	add("refill-udp-forged", "udp4", "the same with another address as its own, IP_PKTINFO", read, sendForged4)
	add("refill-udp-forged-v6", "udp6", "the same with IPV6_PKTINFO, to ::1", read, sendForged6)
	add("refill-unixgram", "abstractgram", "sendto() the unix datagram socket itself, which has an abstract name", read, sendToItself)
	add("refill-unixgram-path", "unixgram", "the same to one that has a path", read, sendToItself)
	add("refill-fifo", "fifo", "write() to its own FIFO", read, func(m *mission, fd int) error {
		_, err := unix.Write(fd, []byte(m.Nonce))
		return at("write", err)
	})
	add("refill-fifo-reopen", "fifo", "the same, opened for writing by /proc/self/fd", read, func(m *mission, fd int) error {
		again, err := unix.Open(fmt.Sprint("/proc/self/fd/", fd), unix.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return at("open", err)
		}
		_, err = unix.Write(again, []byte(m.Nonce))
		return at("write", err)
	})
	add("poison-fifo-mode", "fifo", "fchmod() of its FIFO, which is left behind", "it has another mode when the next instance serves", func(_ *mission, fd int) error {
		return at("fchmod", unix.Fchmod(fd, 0o604))
	})
	return all
}

func sendToItself(m *mission, fd int) error {
	to, err := unix.Getsockname(fd)
	if err != nil {
		return at("getsockname", err)
	}
	return at("sendto", unix.Sendto(fd, []byte(m.Nonce), 0, to))
}

func sendForged4(m *mission, fd int) error {
	to, err := unix.Getsockname(fd)
	if err != nil {
		return at("getsockname", err)
	}
	info := unix.Inet4Pktinfo{Spec_dst: [4]byte{127, 0, 0, 9}}
	return sendFrom(m, fd, to, unix.IPPROTO_IP, unix.IP_PKTINFO, (*[unix.SizeofInet4Pktinfo]byte)(unsafe.Pointer(&info))[:])
}

func sendForged6(m *mission, fd int) error {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return at("getsockname", err)
	}
	to := &unix.SockaddrInet6{Port: name.(*unix.SockaddrInet6).Port, Addr: [16]byte{15: 1}}
	info := unix.Inet6Pktinfo{Addr: [16]byte{15: 1}}
	return sendFrom(m, fd, to, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, (*[unix.SizeofInet6Pktinfo]byte)(unsafe.Pointer(&info))[:])
}

// sendFrom sends the nonce with a control message.
func sendFrom(m *mission, fd int, to unix.Sockaddr, level, kind int32, data []byte) error {
	oob := make([]byte, unix.CmsgSpace(len(data)))
	header := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	header.Level, header.Type = level, kind
	header.SetLen(unix.CmsgLen(len(data)))
	copy(oob[unix.CmsgLen(0):], data)
	return at("sendmsg", unix.Sendmsg(fd, []byte(m.Nonce), oob, to, 0))
}

// readLeft reads what is in a queue before any client has come.
func readLeft(fd int) (string, error) {
	if err := readable(fd, 1); err != nil {
		return "", errors.New("nothing is left to read")
	}
	text := make([]byte, 512)
	n, err := unix.Read(fd, text)
	return fmt.Sprintf("%q is left to read", text[:max(n, 0)]), at("read", err)
}
