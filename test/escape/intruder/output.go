package main

import (
	"bytes"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"activator/test/escape/wire"
)

// What can be done by what stdout leads to.
func outputProbes() []probe {
	var all []probe
	add := func(name, tries, means, witness string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "output", Tries: tries, Means: means, Witness: witness}, run})
	}
	const log = "what others wrote to the log is gone"
	add("output-truncate", "ftruncate() of stdout, and truncate() of /proc/self/fd/1: a file", log, wire.WitnessHost, truncateOutput)
	add("output-overwrite", "F_SETFL without O_APPEND and pwrite(): a file", log, wire.WitnessHost, overwriteOutput)
	add("output-pipe", "/proc/self/fd/1 opened again for reading: the pipe of the starter's stdout", "what others wrote to it is read", wire.WitnessSecret, reopenOutput(unix.O_RDONLY))
	add("output-terminal", "the same where it is a terminal", "what is typed there is read", wire.WitnessSecret, reopenOutput(unix.O_RDONLY))
	add("output-socket", "sendto() another address, stdout being a UDP socket", "a server of the host gets the datagram", wire.WitnessNonce, sendByOutput)
	add("output-fifo", "fchmod() of stdout, a FIFO of the host's", "it has another mode", wire.WitnessHost, func(*mission) (string, error) {
		return "changed its mode", at("fchmod", unix.Fchmod(1, 0o666))
	})
	return all
}

func reopenOutput(flags int) func(*mission) (string, error) {
	return func(m *mission) (string, error) {
		fd, err := unix.Open("/proc/self/fd/1", flags|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return "", at("open /proc/self/fd/1", err)
		}
		text := make([]byte, 4096)
		n, err := unix.Read(fd, text)
		if err != nil {
			return "", at("read", err)
		}
		m.proof = string(bytes.TrimSpace(text[:n]))
		return "read what others wrote", nil
	}
}

func truncateOutput(*mission) (string, error) {
	err := at("ftruncate", unix.Ftruncate(1, 0))
	if err != nil && unix.Truncate("/proc/self/fd/1", 0) == nil {
		err = nil
	}
	return "cut off the log", err
}

func overwriteOutput(m *mission) (string, error) {
	if _, err := unix.FcntlInt(1, unix.F_SETFL, 0); err != nil {
		return "", at("fcntl F_SETFL", err)
	}
	_, err := unix.Pwrite(1, []byte(m.Nonce), 0)
	return "wrote over the log", at("pwrite", err)
}

func sendByOutput(m *mission) (string, error) {
	to, err := netip.ParseAddrPort(m.Witness["udp4"])
	if err != nil {
		return "", errors.New("no witness")
	}
	err = unix.Sendto(1, []byte(m.Nonce), 0, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	return "sent by stdout", at("sendto", err)
}
