package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// Options of a shared socket that outlive us: the next instance gets the socket
// as we left it. The harness is the client of the next instance.
func poisonProbes() []probe {
	var all []probe
	add := func(name, socket, tries, means string, spoil func(*mission, int) error) {
		run := func(m *mission) (string, error) {
			fd, err := m.socket(socket)
			if err != nil {
				return "", err
			}
			return "the kernel set it", spoil(m, fd)
		}
		all = append(all, probe{wire.Probe{Name: name, Group: "poison", Tries: tries, Means: means, Witness: wire.WitnessNext}, run})
	}
	const starved = "the next instance's clients get no answer"
	add("poison-filter-tcp", "tcp4", "SO_ATTACH_FILTER (drop all) and SO_LOCK_FILTER on the listener", starved, dropAll)
	add("poison-filter-udp", "udp4", "the same on the UDP socket", starved, dropAll)
	add("poison-filter-high-bits", "udp4", "the same with bits above the 32 that the kernel looks at", starved, func(_ *mission, fd int) error {
		drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
		program := unix.SockFprog{Len: 1, Filter: &drop}
		return at("setsockopt SO_ATTACH_FILTER", call(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET|highBit, unix.SO_ATTACH_FILTER|highBit, uintptr(unsafe.Pointer(&program)), unsafe.Sizeof(program)))
	})
	add("poison-filter-unixgram", "unixgram", "the same on the unix datagram socket", starved, dropAll)
	add("poison-device-tcp", "tcp4", "SO_BINDTODEVICE on the listener, another interface than its clients'", starved, otherDevice)
	add("poison-device-udp", "udp4", "the same on the UDP socket", starved, otherDevice)
	add("poison-md5", "tcp4", "TCP_MD5SIG for the client's address on the listener", starved, signed)
	add("poison-minttl", "tcp4", "IP_MINTTL 255 on the listener", starved, option(unix.IPPROTO_IP, unix.IP_MINTTL, 255))
	add("poison-pacing", "tcp4", "SO_MAX_PACING_RATE, one byte a second, on the listener", "an answer of 1 MiB does not come", option(unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 1))
	add("poison-linger", "tcp4", "SO_LINGER, no second, on the listener: its connections have it too", "an answer of 256 KiB is cut off when the next instance closes", func(_ *mission, fd int) error {
		return at("setsockopt SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
	add("poison-backlog", "tcp4", "listen() again with a backlog of 0", "the next instance's clients cannot connect at once", func(_ *mission, fd int) error { return at("listen", unix.Listen(fd, 0)) })
	add("poison-timeout", "tcp4", "SO_RCVTIMEO, a microsecond, on the listener", "accept() fails in the next instance", func(_ *mission, fd int) error {
		return at("setsockopt SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 1}))
	})
	add("poison-lowat", "tcp4", "SO_RCVLOWAT, 1 MiB, on the listener: its connections have it too", starved, option(unix.SOL_SOCKET, unix.SO_RCVLOWAT, 1<<20))
	add("poison-nonblock", "tcp4", "O_NONBLOCK on the listener", "accept() fails in the next instance", func(_ *mission, fd int) error {
		return at("fcntl", unix.SetNonblock(fd, true))
	})
	add("poison-shutdown", "tcp4", "shutdown() of the listener", "the next instance's clients are refused", func(_ *mission, fd int) error {
		return at("shutdown", unix.Shutdown(fd, unix.SHUT_RDWR))
	})
	add("poison-connect-udp", "udp4", "connect() of the UDP socket", starved, func(_ *mission, fd int) error {
		return at("connect", unix.Connect(fd, &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}))
	})
	add("poison-connect-unixgram", "unixgram", "connect() of the unix datagram socket", starved, connectElsewhere)
	add("poison-rcvbuf", "udp4", "SO_RCVBUF tiny on the UDP socket", "of a burst of datagrams most are lost", option(unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	add("poison-peek-off", "udp4", "SO_PEEK_OFF on the UDP socket", "a peek of the next instance misses what is there", option(unix.SOL_SOCKET, unix.SO_PEEK_OFF, 1<<16))
	all = append(all, queueProbes()...)
	all = append(all, refillProbes()...)
	add("poison-membership", "udp4", "IP_ADD_MEMBERSHIP on the UDP socket", "the host stays in a multicast group", joinGroup)
	return all
}

// queueProbes leave an option to those who wait: a client that comes while we have the listener, and is the next
// instance's.
func queueProbes() []probe {
	var all []probe
	add := func(name, tries, means string, spoil func(*mission, int) error) {
		run := func(m *mission) (string, error) {
			fd, err := m.socket("tcp4")
			if err != nil {
				return "", err
			}
			if err := spoil(m, fd); err != nil {
				return "", err
			}
			_, err = m.ask("queue", "")
			return "a client waits", err
		}
		all = append(all, probe{wire.Probe{Name: name, Group: "poison", Tries: tries + " on the listener, then a client comes, and waits", Means: means, Witness: wire.WitnessNext}, run})
	}
	add("queue-linger", "SO_LINGER, no second,", "the next instance's answer to it is cut off", func(_ *mission, fd int) error {
		return at("setsockopt SO_LINGER", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	})
	add("queue-user-timeout", "TCP_USER_TIMEOUT, a millisecond,", "it is reset when it reads two seconds late", option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 1))
	add("queue-receive-timeout", "SO_RCVTIMEO, a microsecond,", "the next instance's read() of what it says fails", func(_ *mission, fd int) error {
		return at("setsockopt SO_RCVTIMEO", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 1}))
	})
	add("queue-send-buffer", "SO_SNDBUF tiny", "the next instance's buffer for it is as tiny", option(unix.SOL_SOCKET, unix.SO_SNDBUF, 1))
	add("queue-receive-buffer", "SO_RCVBUF tiny", "the next instance's buffer for it is as tiny", option(unix.SOL_SOCKET, unix.SO_RCVBUF, 1))
	return all
}

func option(level, name, value int) func(*mission, int) error {
	return func(_ *mission, fd int) error {
		return at("setsockopt", unix.SetsockoptInt(fd, level, name, value))
	}
}

// dropAll attaches the packet filter "ret 0" and locks it, socket(7).
func dropAll(_ *mission, fd int) error {
	drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
	program := unix.SockFprog{Len: 1, Filter: &drop}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program); err != nil {
		return at("setsockopt SO_ATTACH_FILTER", err)
	}
	return at("setsockopt SO_LOCK_FILTER", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 1))
}

// otherDevice binds to an interface of the host that is not lo, where the
// harness's clients come from.
func otherDevice(m *mission, fd int) error {
	err := error(unix.ENODEV)
	for _, name := range m.Interfaces {
		if err = unix.BindToDevice(fd, name); err == nil {
			return nil
		}
	}
	return at("setsockopt SO_BINDTODEVICE", err)
}

// signed demands signatures (RFC 2385) of the client, which has no key.
func signed(m *mission, fd int) error {
	source, err := netip.ParseAddr(m.Source)
	if err != nil {
		return err
	}
	var s struct { // struct tcp_md5sig
		address    [128]byte
		flags, len byte
		keyLength  uint16
		device     int32
		key        [80]byte
	}
	s.address[0] = unix.AF_INET
	copy(s.address[4:], source.AsSlice())
	s.keyLength = uint16(copy(s.key[:], "poison"))
	return at("setsockopt TCP_MD5SIG", call(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_MD5SIG, uintptr(unsafe.Pointer(&s)), unsafe.Sizeof(s)))
}

// connectElsewhere: a connected unix datagram socket takes nothing from others.
func connectElsewhere(_ *mission, fd int) error {
	other, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return at("socket", err)
	}
	if err := unix.Bind(other, &unix.SockaddrUnix{}); err != nil { // an abstract name of the kernel's choice
		return at("bind", err)
	}
	name, err := unix.Getsockname(other)
	if err != nil {
		return at("getsockname", err)
	}
	return at("connect", unix.Connect(fd, name))
}

// joinGroup joins on lo (index 1), so that nothing leaves the machine.
func joinGroup(_ *mission, fd int) error {
	group := unix.IPMreqn{Multiaddr: [4]byte{239, 77, 77, 77}, Ifindex: 1}
	return at("setsockopt IP_ADD_MEMBERSHIP", unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &group))
}

// serveMode is a well-behaved instance, which serves one client on the socket
// that the harness names: what a poisoned one is compared with.
var serveMode = probe{wire.Probe{Name: "serve", Witness: wire.WitnessNonce}, func(m *mission) (string, error) {
	kind, err := m.ask("which", "")
	if err != nil {
		return "", err
	}
	name, way, _ := strings.Cut(kind, " ")
	fd, err := m.socket(name)
	if err != nil {
		return "", err
	}
	switch {
	case way == "refill":
		return readLeft(fd)
	case strings.HasPrefix(way, "queued "):
		return m.serveQueued(fd, strings.TrimPrefix(way, "queued "))
	case strings.HasPrefix(name, "tcp"):
		return m.serveStream(fd, way)
	}
	return m.serveDatagrams(fd, way)
}}

// tinyBuffer is less than the kernel gives any connection.
const tinyBuffer = 1 << 14

// readQueued reads what a client says that waited for us, and looks at how it was left to us: a read may end before
// anything is there.
func (m *mission) readQueued(client int, line []byte) (n int, err error) {
	for _, buffer := range []int{unix.SO_SNDBUF, unix.SO_RCVBUF} {
		if size, err := unix.GetsockoptInt(client, unix.SOL_SOCKET, buffer); err != nil || size < tinyBuffer {
			return 0, errors.Join(fmt.Errorf("a buffer of %d bytes", size), err)
		}
	}
	if limit, err := unix.GetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err != nil || *limit != (unix.Timeval{}) {
		_, err = unix.Read(client, line)
		return 0, err
	}
	if _, err := m.ask("ready", ""); err != nil {
		return 0, err
	}
	return unix.Read(client, line)
}

// serveQueued serves a client that has waited.
func (m *mission) serveQueued(fd int, way string) (string, error) {
	if err := readable(fd, waitTimeout); err != nil {
		return "", at("accept", err)
	}
	client, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		return "", at("accept", err)
	}
	line := make([]byte, 512)
	n, err := m.readQueued(client, line)
	if err != nil {
		return "", at("read", err)
	}
	return answerStream(client, line[:n], way)
}

// answerStream sends a line back, and more if it is asked to.
func answerStream(client int, line []byte, way string) (string, error) {
	if _, err := unix.Write(client, line); err != nil {
		return "", at("write", err)
	}
	bounded(client)
	more := map[string]int{"bulk": 1 << 20, "cut": 1 << 18, "late": 1 << 24}[way] // cut: read when we are gone; late: two seconds later
	for more > 0 {
		n, err := unix.Write(client, make([]byte, more))
		if err != nil {
			return "", at("write", err)
		}
		more -= n
	}
	return "served", nil
}

// serveStream accepts as a plain server does: it blocks. It reads a line and
// sends it back, and more if it is asked to.
func (m *mission) serveStream(fd int, way string) (string, error) {
	var client int
	accepted := make(chan error, 1)
	go func() {
		var err error
		client, _, err = unix.Accept4(fd, unix.SOCK_CLOEXEC)
		accepted <- err
	}()
	_, _ = unix.Poll(nil, 100) // a tenth of a second: no peer is there, so it must block
	if len(accepted) > 0 {
		return "", at("accept, without a client", <-accepted)
	}
	if answer, err := m.ask("ready", ""); err != nil {
		return "", err
	} else if answer == wire.NoClient {
		return "", errors.New("accept: nobody comes")
	}
	for range 10 * waitTimeout {
		if _, _ = unix.Poll(nil, 100); len(accepted) > 0 {
			break
		}
	}
	if len(accepted) == 0 {
		return "", errors.New("accept: nobody comes")
	}
	if err := <-accepted; err != nil {
		return "", at("accept", err)
	}
	if err := readable(client, waitTimeout); err != nil {
		return "", at("the client's bytes", err)
	}
	line := make([]byte, 512)
	n, err := unix.Read(client, line)
	if err != nil {
		return "", at("read", err)
	}
	return answerStream(client, line[:n], way)
}

// serveDatagrams answers each datagram, after they have all come.
func (m *mission) serveDatagrams(fd int, way string) (string, error) {
	if _, err := m.ask("ready", ""); err != nil {
		return "", err
	}
	if _, err := m.ask("sent", ""); err != nil {
		return "", err
	}
	wait := waitTimeout
	for buffer := make([]byte, 2048); readable(fd, wait) == nil; {
		if way == "peek" {
			n, _, err := unix.Recvfrom(fd, buffer, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err != nil || n == 0 {
				return "", at("recvfrom MSG_PEEK", unix.EAGAIN)
			}
		}
		n, from, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		if err != nil {
			return "", at("recvfrom", err)
		}
		if from != nil {
			_ = unix.Sendto(fd, buffer[:n], 0, from)
		}
		answer, err := m.ask("got", string(buffer[:n]))
		if err != nil {
			return "", err
		}
		if answer == wire.GotAll {
			wait = 0 // what comes too often is there
		}
	}
	return "served", nil
}
