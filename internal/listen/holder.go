package listen

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/kernel/sockdiag"
	"activator/internal/spec"
)

// rival is a socket that has an address already.
type rival struct {
	inode  uint32         // of sockfs; 0: no process has it
	uid    string         // ""; the kernel does not tell it of unix sockets
	node   uint32         // of a path, the half of its inode that the kernel tells
	remote netip.AddrPort // of a connection
}

// describeHolder says which processes have an address already, as far as the kernel tells.
func describeHolder(a spec.Address) string {
	switch {
	case a.IsTCP():
		if holders := describeHolders(internetRivals(unix.IPPROTO_TCP, sockdiag.Listening, a)); holders != "" {
			return holders
		}
		return describeConnection(a)
	case a.IsUDP():
		return describeHolders(internetRivals(unix.IPPROTO_UDP, sockdiag.AnyState, a))
	case a.IsUnix():
		return describeHolders(unixRivals(a.Path))
	}
	return ""
}

func describeHolders(rivals []rival) string {
	if len(rivals) == 0 {
		return ""
	}
	links := make(map[string]bool) // proc_pid_fd(5)
	for _, r := range rivals {
		links[fmt.Sprintf("socket:[%d]", r.inode)] = true
	}
	if names := processesWith(links); len(names) > 0 {
		return "held by " + strings.Join(names, ", ")
	}
	if rivals[0].uid != "" {
		return "held by a process of uid " + rivals[0].uid + " that this user cannot see; root can: ss -lnp"
	}
	return "held by a process that this user cannot see; root can: ss -lnp"
}

// ended are the states of connections that no process has any more.
const ended = sockdiag.TimeWait | sockdiag.FinWait1 | sockdiag.FinWait2 | sockdiag.LastAck | sockdiag.Closing

// describeConnection says which connection has the port of an address for its own end: one to
// somebody else, which the kernel gave the port, or one that has ended.
func describeConnection(a spec.Address) (text string) {
	rivals := internetRivals(unix.IPPROTO_TCP, sockdiag.AnyState&^sockdiag.Listening, a)
	for _, r := range rivals {
		switch {
		case r.inode != 0:
			text = fmt.Sprintf("%s, for a connection to %s", describeHolders([]rival{r}), r.remote)
		case text == "":
			text = fmt.Sprintf("held by a connection to %s that has ended, for a minute or two", r.remote)
		}
	}
	if least, most := clientPorts(); text != "" && least <= a.Port && a.Port <= most {
		text += fmt.Sprintf("; the kernel gives the ports %d to %d to clients: sysctl -w net.ipv4.ip_local_reserved_ports=%d keeps this one", least, most, a.Port)
	}
	return text
}

// clientPorts are those that the kernel gives to clients, ip(7).
func clientPorts() (least, most uint32) {
	_, _ = fmt.Sscan(proc.ReadSysctl("net.ipv4.ip_local_port_range"), &least, &most)
	return least, most
}

// internetRivals lists the sockets that a cannot be bound beside.
func internetRivals(protocol int, states uint32, a spec.Address) (rivals []rival) {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		q := sockdiag.Inet{Family: family, Protocol: protocol, States: states, Port: uint16(a.Port)}
		_ = sockdiag.WithSocket(func(socket int) error {
			return q.Each(socket, func(s *sockdiag.InetSocket) {
				if (s.Inode != 0 || s.State&ended != 0) && overlapsAddress(s.Local.Addr().Unmap(), a) {
					rivals = append(rivals, rival{inode: s.Inode, uid: strconv.Itoa(int(s.UID)), remote: s.Remote})
				}
			})
		})
	}
	return rivals
}

func overlapsAddress(ip netip.Addr, a spec.Address) bool {
	if !a.IP.IsValid() {
		// The wildcard of one family leaves the other alone, but a dual-stack
		// one shows as [::] too.
		v4only, v6only := a.Network == spec.TCP4 || a.Network == spec.UDP4, a.Network == spec.TCP6 || a.Network == spec.UDP6
		return !(v4only && ip.Is6() && !ip.IsUnspecified()) && !(v6only && ip.Is4())
	}
	return ip.IsUnspecified() || ip == a.IP.WithZone("")
}

// unixRivals lists the sockets bound to a path or "@name", also to a node that is gone.
func unixRivals(name string) (rivals []rival) {
	_ = sockdiag.WithSocket(func(socket int) error {
		return sockdiag.Unix{States: sockdiag.AnyState, Show: sockdiag.ShowName | sockdiag.ShowNode}.Each(socket, func(s *sockdiag.UnixSocket) {
			if s.Text() == name {
				rivals = append(rivals, rival{inode: s.Inode, node: s.Node.Inode})
			}
		})
	})
	return rivals
}

// boundTo returns those that are bound to a node.
func boundTo(node uint64, rivals []rival) (exact []rival) {
	for _, r := range rivals {
		if r.node == uint32(node) {
			exact = append(exact, r)
		}
	}
	return exact
}

// processesWith returns "pid 12 (nginx)" for every process that holds one of
// these sockets and lets us look.
func processesWith(links map[string]bool) []string {
	var found []string
	for _, pid := range proc.ListPids() {
		if !holdsOne(fmt.Sprintf("/proc/%d/fd/", pid), links) {
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

func holdsOne(dir string, links map[string]bool) bool {
	fds, _ := os.ReadDir(dir) // not ours to look into: none
	for _, fd := range fds {
		if target, err := os.Readlink(dir + fd.Name()); err == nil && links[target] {
			return true
		}
	}
	return false
}
