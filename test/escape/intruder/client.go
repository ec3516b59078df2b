package main

import (
	"errors"
	"strconv"
	"strings"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What a client can be used for: one that colludes, and one that is a victim.
func clientProbes() []probe {
	const out = "bytes exchanged with a server in the host's network"
	const file = "a file of the host read that is not to be seen inside"
	const secret = "the client's secret read"
	var all []probe
	add := func(name, tries, means, witness string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "clients", Tries: tries, Means: means, Witness: witness}, run})
	}
	add("rights-udp", "a colluding client passes in a UDP socket: sendto()", "a datagram reaches a server in the host's network", wire.WitnessNonce, rightsUDP)
	add("rights-tcp", "a colluding client passes in a TCP socket: connect()", out, wire.WitnessNonce, rightsTCP)
	add("rights-listen", "a colluding client passes in a TCP socket: bind() and listen()", "a client of the host connects to a port that was not there before", wire.WitnessNonce, rightsListen)
	add("rights-connection", "a colluding client passes in a connection of its own: write()", out, wire.WitnessNonce, rightsConnection)
	add("rights-root", "a colluding client passes in the host's /: openat()", file, wire.WitnessSecret, rightsRoot)
	add("rights-pair-root", "an end of a socketpair() passed to a colluding client, who passes in the host's /: openat()", file, wire.WitnessSecret, rightsPairRoot)
	add("rights-netns", "a colluding client passes in the host's network namespace: setns()", out, wire.WitnessNonce, rightsNamespace)
	add("peer-signal", "SO_PEERPIDFD of a client, pidfd_send_signal()", "the client gets a signal", wire.WitnessHost, peerSignal)
	add("peer-getfd", "SO_PEERPIDFD of a client, pidfd_getfd()", secret, wire.WitnessSecret, peerGetfd)
	add("peer-memory", "SO_PEERCRED of a client, process_vm_readv()", secret, wire.WitnessSecret, peerMemory)
	return all
}

// passed is the descriptor that the harness passes in.
func (m *mission) passed(what string) (int, error) {
	answer, err := m.ask("rights", what)
	if err != nil {
		return -1, err
	}
	if len(m.rights) == 0 {
		return -1, errors.New("the descriptor did not arrive: " + answer)
	}
	return m.rights[0], nil
}

func rightsUDP(m *mission) (string, error) {
	fd, err := m.passed("udp")
	if err != nil {
		return "", err
	}
	to, err := m.address("udp4")
	if err != nil {
		return "", err
	}
	return "the kernel took the datagram", sendTo(fd, []byte(m.Nonce+"\n"), 0, to)
}

func rightsTCP(m *mission) (string, error) {
	fd, err := m.passed("tcp")
	if err != nil {
		return "", err
	}
	return m.connectOut(fd, "tcp4")
}

func rightsListen(m *mission) (string, error) {
	fd, err := m.passed("tcp")
	if err != nil {
		return "", err
	}
	return m.listenOn(fd, true)
}

func rightsConnection(m *mission) (string, error) {
	fd, err := m.passed("connection")
	if err != nil {
		return "", err
	}
	return m.exchange(fd)
}

func rightsRoot(m *mission) (string, error) {
	fd, err := m.passed("root")
	if err != nil {
		return "", err
	}
	return m.readSecretAt(fd, "the passed root")
}

// rightsPairRoot receives at a socket of its own, which no option of the inherited one
// is about.
func rightsPairRoot(m *mission) (string, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return "", at("socketpair", err)
	}
	bounded(pair[0])
	if _, err := m.ask("another", ""); err != nil {
		return "", err
	}
	client, err := m.accepted("unix")
	if err != nil {
		return "", err
	}
	if err := unix.Sendmsg(client, []byte("x"), unix.UnixRights(pair[1]), nil, 0); err != nil {
		return "", at("sendmsg", err)
	}
	if _, err := m.ask("through", "root"); err != nil {
		return "", err
	}
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", at("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil || len(messages) == 0 {
		return "", errors.Join(err, errors.New("no descriptor came over the pair"))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return "", err
	}
	return m.readSecretAt(fds[0], "the passed root")
}

func rightsNamespace(m *mission) (string, error) {
	fd, err := m.passed("netns")
	if err != nil {
		return "", err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return "", at("setns", err)
	}
	return ownSocket("tcp4")(m)
}

// victim has a process of the host that does not collude connect to us, and
// returns our end, and what it says of where its secret is.
func (m *mission) victim() (fd int, where []string, err error) {
	answer, err := m.ask("victim", "")
	if err != nil {
		return -1, nil, err
	}
	fd, err = m.accepted("unix")
	return fd, strings.Fields(answer), err
}

func (m *mission) peerPidfd() (pidfd int, where []string, err error) {
	fd, where, err := m.victim()
	if err != nil {
		return -1, nil, err
	}
	const soPeerpidfd = 77 // Linux 6.5
	pidfd, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, soPeerpidfd)
	return pidfd, where, at("getsockopt SO_PEERPIDFD", err)
}

func peerSignal(m *mission) (string, error) {
	pidfd, _, err := m.peerPidfd()
	if err != nil {
		return "", err
	}
	if err := unix.PidfdSendSignal(pidfd, unix.SIGUSR1, nil, 0); err != nil {
		return "", at("pidfd_send_signal", err)
	}
	return "sent a signal", nil
}

func peerGetfd(m *mission) (string, error) {
	pidfd, where, err := m.peerPidfd()
	if err != nil {
		return "", err
	}
	number, err := strconv.Atoi(where[2])
	if err != nil {
		return "", err
	}
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return "", at("pidfd_getfd", err)
	}
	return "took a descriptor from the client", m.readSecret(fd)
}

func peerMemory(m *mission) (string, error) {
	fd, where, err := m.victim()
	if err != nil {
		return "", err
	}
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return "", at("getsockopt SO_PEERCRED", err)
	}
	return m.readMemory(int(peer.Pid), where[1])
}

// readMemory reads the secret at an address of another process.
func (m *mission) readMemory(pid int, address string) (string, error) {
	remote, err := strconv.ParseUint(address, 0, 64)
	if err != nil {
		return "", err
	}
	text := make([]byte, secretSize)
	local := unix.Iovec{Base: &text[0]}
	local.SetLen(len(text))
	there := [2]uint64{remote, secretSize} // struct iovec
	if err := call(unix.SYS_PROCESS_VM_READV, uintptr(pid), uintptr(unsafe.Pointer(&local)), 1, uintptr(unsafe.Pointer(&there)), 1, 0); err != nil {
		return "", at("process_vm_readv", err)
	}
	m.proof = string(text)
	return "read another process's memory", nil
}
