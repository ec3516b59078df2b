package proc

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// ListBound lists where sockets of the network namespace of a process are bound: those of TCP that listen, or those of
// UDP that are connected to nobody, most of them at the most. protocol is "tcp" or "udp".
func ListBound(pid int, protocol string, most int) (bound []netip.AddrPort) {
	for _, table := range []string{protocol, protocol + "6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, table))
		if err != nil {
			continue // a kernel without IPv6, or the process has gone
		}
		for lines := bufio.NewScanner(f); len(bound) < most && lines.Scan(); {
			if at, ok := parseBound(lines.Text(), protocol); ok && !slices.Contains(bound, at) {
				bound = append(bound, at)
			}
		}
		_ = f.Close()
	}
	return bound
}

// parseBound reads a line of /proc/net/tcp and its cousins, proc_pid_net(5): the number, the local address, that of the
// other side, the state.
func parseBound(line, protocol string) (at netip.AddrPort, ok bool) {
	const listening, unconnected = "0A", "07"
	fields := strings.Fields(line)
	if len(fields) < 4 || fields[3] != map[string]string{"tcp": listening, "udp": unconnected}[protocol] {
		return at, false
	}
	address, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(address)
	number, bad := strconv.ParseUint(port, 16, 16)
	if err != nil || bad != nil || len(raw)%4 != 0 {
		return at, false
	}
	for word := range slices.Chunk(raw, 4) { // each is a number of this machine, little-endian
		slices.Reverse(word)
	}
	ip, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), ok
}

// ListSockets lists the sockets that a process has, as /proc names them: "socket:[" and a number. Its first thread may have
// ended, and has none then.
func ListSockets(pid int) (names []string) {
	for _, thread := range listThreads(pid) {
		folder := fmt.Sprintf("/proc/%d/fd", thread)
		entries, _ := os.ReadDir(folder) // the thread has gone
		for _, entry := range entries {
			if name, err := os.Readlink(folder + "/" + entry.Name()); err == nil && strings.HasPrefix(name, "socket:[") {
				names = append(names, name)
			}
		}
		if len(entries) > 0 {
			break
		}
	}
	return names
}
