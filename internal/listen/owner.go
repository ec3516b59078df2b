package listen

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// holder says who has a's place already, as far as /proc tells. proc_net(5).
func holder(a spec.Address) string {
	switch {
	case a.IsTCP():
		return holders(append(internetRows("tcp", a), internetRows("tcp6", a)...))
	case a.IsUDP():
		return holders(append(internetRows("udp", a), internetRows("udp6", a)...))
	case a.IsUnix():
		return holders(unixRows(a.Path))
	}
	return ""
}

// row is a socket as /proc/net lists it.
type row struct {
	inode uint64
	uid   string // "" where the table has none
}

func holders(rows []row) string {
	if len(rows) == 0 {
		return ""
	}
	inodes := make(map[uint64]bool)
	for _, r := range rows {
		inodes[r.inode] = true
	}
	if names := processesWith(inodes); len(names) > 0 {
		return "held by " + strings.Join(names, ", ")
	}
	if rows[0].uid != "" {
		return "held by a process of uid " + rows[0].uid + " that this user cannot see; root can: ss -lnp"
	}
	return "held by a process that this user cannot see; root can: ss -lnp"
}

// internetRows returns the sockets that a would clash with.
func internetRows(table string, a spec.Address) []row {
	var rows []row
	eachLine("/proc/net/"+table, func(fields []string) {
		// sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode
		if len(fields) < 10 || (strings.HasPrefix(table, "tcp") && fields[3] != "0A") {
			return
		}
		ip, port, err := parseProcAddress(fields[1])
		if err != nil || port != a.Port || !clash(ip, a) {
			return
		}
		if inode, err := strconv.ParseUint(fields[9], 10, 64); err == nil && inode != 0 {
			rows = append(rows, row{inode, fields[7]})
		}
	})
	return rows
}

func clash(ip netip.Addr, a spec.Address) bool {
	if !a.IP.IsValid() {
		// The wildcard of one family leaves the other alone, but a dual-stack
		// one shows as [::] too.
		v4only, v6only := a.Network == spec.TCP4 || a.Network == spec.UDP4, a.Network == spec.TCP6 || a.Network == spec.UDP6
		return !(v4only && ip.Is6() && !ip.IsUnspecified()) && !(v6only && ip.Is4())
	}
	return ip.IsUnspecified() || ip == a.IP.WithZone("")
}

// parseProcAddress reads "0100007F:0BB8": the address as 32-bit words in the
// byte order of the machine, the port as a number.
func parseProcAddress(s string) (netip.Addr, uint32, error) {
	host, port, found := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil || !found || (len(raw) != 4 && len(raw) != 16) {
		return netip.Addr{}, 0, fmt.Errorf("address %q", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.Addr{}, 0, err
	}
	if littleEndian {
		for i := 0; i < len(raw); i += 4 {
			raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
		}
	}
	ip, _ := netip.AddrFromSlice(raw)
	return ip.Unmap(), uint32(n), nil
}

// unixRows returns the sockets bound to a path or "@name".
func unixRows(name string) []row {
	var rows []row
	eachLine("/proc/net/unix", func(fields []string) {
		// Num RefCount Protocol Flags Type St Inode Path
		if len(fields) < 8 || strings.Join(fields[7:], " ") != name {
			return
		}
		if inode, err := strconv.ParseUint(fields[6], 10, 64); err == nil {
			rows = append(rows, row{inode: inode})
		}
	})
	return rows
}

func eachLine(path string, f func(fields []string)) {
	file, err := os.Open(path)
	if err != nil {
		return
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		f(strings.Fields(lines.Text()))
	}
}

// processesWith returns "pid 12 (nginx)" for every process that holds one of
// these sockets and lets us look.
func processesWith(inodes map[uint64]bool) []string {
	var found []string
	for _, pid := range proc.ListPids() {
		if !holdsOne(fmt.Sprintf("/proc/%d", pid), inodes) {
			continue
		}
		if pid == os.Getpid() {
			found = append(found, fmt.Sprint("ourselves, pid ", pid))
			continue
		}
		status, _ := proc.ReadStatus(pid)
		found = append(found, fmt.Sprintf("pid %d (%s)", pid, status["Name"]))
	}
	return found
}

func holdsOne(dir string, inodes map[uint64]bool) bool {
	fds, err := os.ReadDir(dir + "/fd")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false // not ours to look into
	}
	for _, fd := range fds {
		target, err := os.Readlink(dir + "/fd/" + fd.Name())
		number, found := strings.CutPrefix(target, "socket:[")
		if err != nil || !found {
			continue
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(number, "]"), 10, 64)
		if err == nil && inodes[inode] {
			return true
		}
	}
	return false
}

// littleEndian tells how the kernel printed the words of /proc/net/tcp.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1
