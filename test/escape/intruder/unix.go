package main

import (
	"errors"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done with unix sockets, of the host and new ones.
func unixProbes() []probe {
	const gram = "a datagram reaches a socket of the host"
	const stream = "bytes exchanged with a server of the host"
	var all []probe
	add := func(name, tries, means string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "unix", Tries: tries, Means: means, Witness: wire.WitnessNonce}, run})
	}
	add("unixgram-abstract", "sendto() an abstract name from the inherited datagram socket", gram, unixSend("abstractgram", sendTo))
	add("unixgram-abstract-sendmmsg", "the same with sendmmsg()", gram, unixSend("abstractgram", sendMmsg))
	add("unixgram-abstract-connect", "connect() and send() the same", gram, unixgramConnect)
	add("unixgram-path", "sendto() a path of the host from the inherited datagram socket", gram, unixSend("unixgram", sendTo))
	add("unixgram-path-sendmsg", "the same with sendmsg()", gram, unixSend("unixgram", sendMsg))
	add("unixgram-path-sendmmsg", "the same with sendmmsg()", gram, unixSend("unixgram", sendMmsg))
	add("unixgram-path-rights", "the same with a descriptor, SCM_RIGHTS", gram, unixSend("unixgram", sendRights))
	add("unixgram-own-path", "socket() and sendto() a path of the host", gram, unixOwn("unixgram", sendTo))
	add("unixgram-own-rights", "the same with a descriptor, SCM_RIGHTS", gram, unixOwn("unixgram", sendRights))
	add("unixgram-own-abstract", "socket() and sendto() an abstract name", gram, unixOwn("abstractgram", sendTo))
	add("unix-own-abstract", "socket() and connect() to an abstract name", stream, unixConnect("abstract"))
	add("unix-own-path", "socket() and connect() to a path of the host", stream, unixConnect("unix"))
	return all
}

func (m *mission) name(witness string) (unix.Sockaddr, error) {
	name, ok := m.Witness[witness]
	if !ok {
		return nil, errors.New("no witness " + witness)
	}
	return &unix.SockaddrUnix{Name: name}, nil // "@": abstract
}

func unixSend(witness string, send sender) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := m.socket("unixgram")
		if err != nil {
			return "", err
		}
		to, err := m.name(witness)
		if err != nil {
			return "", err
		}
		if err := send(fd, []byte(m.Nonce+"\n"), 0, to); err != nil {
			return "", err
		}
		return "the kernel took the datagram", nil
	}
}

// sendRights sends our end of the log along.
func sendRights(fd int, data []byte, flags int, to unix.Sockaddr) error {
	return at("sendmsg SCM_RIGHTS", unix.Sendmsg(fd, data, unix.UnixRights(2), to, flags))
}

func unixOwn(witness string, send sender) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err != nil {
			return "", at("socket", err)
		}
		to, err := m.name(witness)
		if err != nil {
			return "", err
		}
		return "the kernel took the datagram", send(fd, []byte(m.Nonce+"\n"), 0, to)
	}
}

func unixgramConnect(m *mission) (string, error) {
	fd, err := m.socket("unixgram")
	if err != nil {
		return "", err
	}
	to, err := m.name("abstractgram")
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

func unixConnect(witness string) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		to, err := m.name(witness)
		if err != nil {
			return "", err
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return "", at("socket", err)
		}
		bounded(fd)
		if err := unix.Connect(fd, to); err != nil {
			return "", at("connect", err)
		}
		return m.exchange(fd)
	}
}
