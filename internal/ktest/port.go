package ktest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
)

// Ports that tests use lie below those that the kernel gives to clients, which
// else would take one between two uses of it: net.ipv4.ip_local_port_range begins
// at 32768.
const firstPort, endPort = 10000, 32768

// Port finds a port that is free for TCP and UDP, IPv4 and IPv6, and reserves it
// until the test ends: no test that runs at the same time is given it, in this
// process or in another one of this network namespace.
func Port(tb testing.TB) int {
	tb.Helper()
	for range 10000 {
		port := firstPort + rand.IntN(endPort-firstPort)
		// An abstract name is nobody's file, and goes with the process.
		claim, err := net.Listen("unix", fmt.Sprintf("@activator-test-port-%d", port))
		if err != nil {
			continue
		}
		if freePort(port) {
			tb.Cleanup(func() { claim.Close() })
			return port
		}
		claim.Close()
	}
	tb.Fatal("no free port")
	return 0
}

// freePort reports whether nobody has the port at any address. The wildcards of a
// host without IPv6 are those of IPv4.
func freePort(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	l.Close()
	u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	u.Close()
	return true
}
