package main

import (
	"fmt"
	"net/netip"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done with stream sockets of the host.
func tcpProbes() []probe {
	const out = "bytes exchanged with a server in the host's network"
	const port = "a client of the host connects to a port that was not there before"
	var all []probe
	add := func(name, tries, means string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "TCP", Tries: tries, Means: means, Witness: wire.WitnessNonce}, run})
	}
	add("tcp-own-socket", "socket() and connect() of its own", out, ownSocket("tcp4"))
	add("tcp-own-socket-v6", "the same over IPv6", out, ownSocket("tcp6"))
	add("tcp-own-listen", "socket(), bind() and listen() of its own", port, ownListener(unix.IPPROTO_TCP))
	add("mptcp-own-socket", "socket(IPPROTO_MPTCP) and connect() of its own, which Landlock does not see", out, ownSocketOf("tcp4", unix.IPPROTO_MPTCP))
	add("mptcp-own-socket-v6", "the same over IPv6", out, ownSocketOf("tcp6", unix.IPPROTO_MPTCP))
	add("mptcp-own-listen", "socket(IPPROTO_MPTCP), bind() and listen() of its own", port, ownListener(unix.IPPROTO_MPTCP))
	add("tcp-listener-dissolve", "connect(AF_UNSPEC) on the listener, then connect()", out, listenerDissolve("tcp4", "tcp4"))
	add("tcp-listener-dissolve-v6", "the same over IPv6", out, listenerDissolve("tcp6", "tcp6"))
	add("tcp-listener-dissolve-mapped", "the IPv6 listener to a v4-mapped address", out, listenerDissolve("tcp6", "mappedtcp4"))
	add("tcp-listener-shutdown", "shutdown() on the listener, then connect()", out, listenerShutdown)
	add("tcp-listener-swap", "connect() of a unix socket, which another thread swaps for the listener: dissolved, then connected", out, listenerSwap)
	add("tcp-accepted-swap", "the same with an accepted connection", out, acceptedSwap)
	add("tcp-accepted-dissolve", "connect(AF_UNSPEC) on an accepted connection, then connect()", out, acceptedDissolve("tcp4", "tcp4"))
	add("tcp-accepted-dissolve-v6", "the same over IPv6", out, acceptedDissolve("tcp6", "tcp6"))
	add("tcp-fastopen-sendto", "shutdown() on the listener, then sendto(MSG_FASTOPEN)", out, fastOpen(sendTo))
	add("tcp-fastopen-sendmsg", "the same with sendmsg()", out, fastOpen(sendMsg))
	add("tcp-fastopen-sendmmsg", "the same with sendmmsg()", out, fastOpen(sendMmsg))
	add("tcp-fastopen-high-bits", "sendto(MSG_FASTOPEN) with bits above the 32 that the kernel looks at", out, fastOpen(func(fd int, data []byte, flags int, to unix.Sockaddr) error {
		return sendTo(fd, data, flags|highBit, to)
	}))
	add("tcp-fastopen-connect", "TCP_FASTOPEN_CONNECT, connect() and write() on the dissolved listener", out, fastOpenConnect)
	add("tcp-fastopen-accepted", "an accepted connection dissolved, then sendto(MSG_FASTOPEN)", out, fastOpenAccepted)
	add("tcp-accepted-rebind", "an accepted connection dissolved, bind(), listen()", port, acceptedRebind(dissolveIt, true))
	add("tcp-accepted-listen", "an accepted connection dissolved, listen() without bind()", port, acceptedRebind(dissolveIt, false))
	add("tcp-reset-rebind", "an accepted connection that the client reset, bind(), listen()", port, acceptedRebind(resetIt, true))
	add("tcp-shutdown-rebind", "an accepted connection shut down from both ends, bind(), listen()", port, acceptedRebind(shutIt, true))
	add("tcp-int80-connect", "the dissolved listener connected by 32-bit system calls (int 0x80)", out, int80Connect)
	add("tcp-x32-connect", "the dissolved listener connected by x32 system calls", out, x32Connect)
	all = append(all, probe{wire.Probe{Name: "tcp-ulp", Group: "TCP", Tries: "TCP_ULP \"tls\" on an accepted connection",
		Means: "a protocol module of the kernel is attached", Witness: wire.WitnessKernel}, upperProtocol})
	return all
}

func (m *mission) connectOut(fd int, witness string) (string, error) {
	to, err := m.address(witness)
	if err != nil {
		return "", err
	}
	bounded(fd)
	if err := unix.Connect(fd, to); err != nil {
		return "", at("connect", err)
	}
	return m.exchange(fd)
}

func ownSocket(witness string) func(*mission) (string, error) { return ownSocketOf(witness, 0) }

func ownSocketOf(witness string, protocol int) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		family := map[string]int{"tcp4": unix.AF_INET, "tcp6": unix.AF_INET6}[witness]
		fd, err := unix.Socket(family, unix.SOCK_STREAM, protocol)
		if err != nil {
			return "", at("socket", err)
		}
		return m.connectOut(fd, witness)
	}
}

func ownListener(protocol int) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, protocol)
		if err != nil {
			return "", at("socket", err)
		}
		return m.listenOn(fd, true)
	}
}

// loose returns the inherited listener as an unconnected socket.
func (m *mission) loose(name string) (int, error) {
	fd, err := m.socket(name)
	if err != nil {
		return -1, err
	}
	return fd, at("connect AF_UNSPEC", dissolve(fd))
}

func listenerDissolve(name, witness string) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.loose(name)
		if err != nil {
			return "", err
		}
		return m.connectOut(fd, witness)
	}
}

func listenerShutdown(m *mission) (string, error) {
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return "", at("shutdown", err)
	}
	return m.connectOut(fd, "tcp4")
}

// looseConnection returns an accepted connection as an unconnected socket.
func (m *mission) looseConnection(name string) (int, error) {
	fd, err := m.accepted(name)
	if err != nil {
		return -1, err
	}
	return fd, at("connect AF_UNSPEC", dissolve(fd))
}

func acceptedDissolve(name, witness string) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.looseConnection(name)
		if err != nil {
			return "", err
		}
		return m.connectOut(fd, witness)
	}
}

// sender sends data to an address without connect.
type sender func(fd int, data []byte, flags int, to unix.Sockaddr) error

func sendTo(fd int, data []byte, flags int, to unix.Sockaddr) error {
	return at("sendto", unix.Sendto(fd, data, flags, to))
}

func sendMsg(fd int, data []byte, flags int, to unix.Sockaddr) error {
	return at("sendmsg", unix.Sendmsg(fd, data, nil, to, flags))
}

// fastOpen sends the first bytes with the SYN: no connect is called.
func fastOpen(send sender) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.socket("tcp4")
		if err != nil {
			return "", err
		}
		if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
			return "", at("shutdown", err)
		}
		return m.sendFirst(fd, send)
	}
}

func (m *mission) sendFirst(fd int, send sender) (string, error) {
	to, err := m.address("tcp4")
	if err != nil {
		return "", err
	}
	bounded(fd)
	if err := send(fd, []byte(m.Nonce+"\n"), unix.MSG_FASTOPEN, to); err != nil {
		return "", err
	}
	return m.hear(fd)
}

func fastOpenAccepted(m *mission) (string, error) {
	fd, err := m.looseConnection("tcp4")
	if err != nil {
		return "", err
	}
	return m.sendFirst(fd, sendTo)
}

func fastOpenConnect(m *mission) (string, error) {
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	if err := unix.Shutdown(fd, unix.SHUT_RDWR); err != nil {
		return "", at("shutdown", err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 1); err != nil {
		return "", at("setsockopt TCP_FASTOPEN_CONNECT", err)
	}
	return m.connectOut(fd, "tcp4")
}

func dissolveIt(_ *mission, fd int) error { return at("connect AF_UNSPEC", dissolve(fd)) }

// resetIt has the client reset the connection: the kernel itself lets go of it.
func resetIt(m *mission, fd int) error {
	if _, err := m.ask("reset", ""); err != nil {
		return err
	}
	return at("reset", readable(fd, waitTimeout))
}

func shutIt(m *mission, fd int) error {
	if _, err := m.ask("close", ""); err != nil {
		return err
	}
	if err := readable(fd, waitTimeout); err != nil {
		return at("close", err)
	}
	return at("shutdown", unix.Shutdown(fd, unix.SHUT_RDWR))
}

// acceptedRebind turns an accepted connection into a listener.
func acceptedRebind(free func(*mission, int) error, bind bool) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.accepted("tcp4")
		if err != nil {
			return "", err
		}
		if err := free(m, fd); err != nil {
			return "", err
		}
		return m.listenOn(fd, bind)
	}
}

func (m *mission) listenOn(fd int, bind bool) (string, error) {
	if bind {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return "", at("bind", err)
		}
	}
	if err := unix.Listen(fd, 1); err != nil {
		return "", at("listen", err)
	}
	return m.beDialled(fd)
}

// beDialled has a client of the host connect to the listener fd and shows it the
// nonce.
func (m *mission) beDialled(fd int) (string, error) {
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return "", at("getsockname", err)
	}
	port := bound.(*unix.SockaddrInet4).Port
	where := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
	if _, err := m.ask("dial", where.String()); err != nil {
		return "", err
	}
	if err := readable(fd, waitTimeout); err != nil {
		return "", at("nobody came to "+where.String(), err)
	}
	client, _, err := unix.Accept4(fd, 0)
	if err != nil {
		return "", at("accept", err)
	}
	if _, err := m.exchange(client); err != nil {
		return "", err
	}
	return fmt.Sprintf("served a client of the host at the new port %v", where), nil
}

// x32Connect: bit 30 of the number chooses the x32 table, another number for the
// same call to a filter that forgot it.
func x32Connect(m *mission) (string, error) {
	to, err := m.raw("tcp4")
	if err != nil {
		return "", err
	}
	fd, err := m.socket("tcp4")
	if err != nil {
		return "", err
	}
	const x32 = 0x40000000
	if err := call(x32|unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&unspecified)), 16); err != nil {
		return "", at("x32 connect AF_UNSPEC", err)
	}
	if err := call(x32|unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to[0])), uintptr(len(to))); err != nil {
		return "", at("x32 connect", err)
	}
	return m.exchange(fd)
}

func upperProtocol(m *mission) (string, error) {
	fd, err := m.accepted("tcp4")
	if err != nil {
		return "", err
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
		return "", at("setsockopt TCP_ULP", err)
	}
	return "attached tls", nil
}
