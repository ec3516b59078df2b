package main

import (
	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What a service does to its sockets, so that another user of the host can have their ports. The harness
// is that user; as an ordinary user it is a program of the same one.
func portProbes() []probe {
	var all []probe
	add := func(name, socket, tries string, spoil func(fd int) error) {
		run := func(m *mission) (string, error) {
			fd, err := m.socket(socket)
			if err != nil {
				return "", err
			}
			failed := spoil(fd)
			if _, err := m.ask("steal", socket); err != nil {
				return "", err
			}
			return "the kernel did it", failed
		}
		all = append(all, probe{wire.Probe{Name: name, Group: "ports", Tries: tries, Means: "another user's program gets the service's clients", Witness: wire.WitnessHost}, run})
	}
	shutDown := func(fd int) error { return at("shutdown", unix.Shutdown(fd, unix.SHUT_RDWR)) }
	reuse := func(fd int) error {
		return at("setsockopt SO_REUSEADDR", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	both := func(fd int) error {
		if err := reuse(fd); err != nil {
			return err
		}
		return shutDown(fd)
	}
	add("port-tcp", "tcp4", "SO_REUSEADDR and shutdown() of the listener", both)
	add("port-tcp6", "tcp6", "the same with the listener of [::]", both)
	add("port-udp", "udp4", "SO_REUSEADDR on the UDP socket", reuse)
	add("port-udp6", "udp6", "the same with the UDP socket of [::]", reuse)
	return all
}
