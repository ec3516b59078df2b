package usernotif

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// Target is an address that the service binds, as it sees it, and the socket it gets for it.
type Target struct {
	Address spec.Address // of TCP, UDP or a unix socket
	File    *os.File     // bound, and listening unless it is for datagrams; lent until Run has returned
	Mapped  bool         // File is of IPv6 and has an address of IPv4: it is for what is bound to one by IPv6, too
}

// name is what a call asks to bind, or what a socket is bound to.
type name struct {
	kind      int // SOCK_*
	ip        netip.Addr
	port      uint16
	four, six bool // the families it would serve
	path      string
}

func (n name) String() string {
	var network string
	switch {
	case n.path != "":
		network = map[int]string{unix.SOCK_STREAM: "unix", unix.SOCK_DGRAM: "unixgram", unix.SOCK_SEQPACKET: "unixpacket"}[n.kind]
		return network + "://" + n.path
	case n.kind == unix.SOCK_DGRAM:
		network = "udp"
	default:
		network = "tcp"
	}
	switch {
	case !n.ip.IsUnspecified():
		return network + "://" + netip.AddrPortFrom(n.ip, n.port).String()
	case !n.six:
		network += "4"
	case !n.four:
		network += "6"
	}
	return fmt.Sprintf("%s://:%d", network, n.port)
}

// parseName reads the address that a socket of domain and kind is asked to bind. v6Only is
// the option of the socket. An address that can match no target is not ok; so is one that the
// kernel will refuse, and a port that the kernel chooses.
func parseName(domain, kind int, v6Only bool, sockaddr []byte) (n name, ok bool) {
	if len(sockaddr) < 2 {
		return name{}, false
	}
	n.kind = kind
	family := int(binary.NativeEndian.Uint16(sockaddr))
	rest := sockaddr[2:]
	switch domain {
	case unix.AF_UNIX:
		n.path = parsePath(rest)
		return n, family == unix.AF_UNIX && n.path != ""
	case unix.AF_INET:
		// struct sockaddr_in, ip(7). AF_UNSPEC with the wildcard is taken for AF_INET:
		// __inet_bind() in net/ipv4/af_inet.c.
		if len(sockaddr) < unix.SizeofSockaddrInet4 {
			return name{}, false
		}
		n.port, n.ip, n.four = binary.BigEndian.Uint16(rest), netip.AddrFrom4([4]byte(rest[2:6])), true
		return n, n.port != 0 && (family == unix.AF_INET || family == unix.AF_UNSPEC && n.ip.IsUnspecified())
	case unix.AF_INET6:
		const least = 24 // SIN6_LEN_RFC2133: without the scope
		if len(sockaddr) < least || family != unix.AF_INET6 {
			return name{}, false
		}
		n.port, n.ip = binary.BigEndian.Uint16(rest), netip.AddrFrom16([16]byte(rest[6:22]))
		n.six = !n.ip.Is4In6()
		n.four = !n.six || n.ip.IsUnspecified() && !v6Only
		n.ip = n.ip.Unmap()
		return n, n.port != 0 && (n.six || !v6Only)
	}
	return name{}, false
}

// parsePath reads sun_path, unix(7): "@name" for an abstract name, "" for none.
func parsePath(p []byte) string {
	if len(p) > 0 && p[0] == 0 {
		if len(p) == 1 {
			return ""
		}
		return "@" + string(p[1:])
	}
	text, _, _ := strings.Cut(string(p), "\x00")
	if strings.HasPrefix(text, "@") { // a file all the same
		return "./" + text
	}
	return text
}

// makeAbsolute completes a path by the folder that it is relative to.
func (n name) makeAbsolute(folder func() string) name {
	if n.path != "" && n.path[0] != '@' && n.path[0] != '/' {
		n.path = path.Join(folder(), n.path)
	}
	return n
}

// cleanPath returns a path without the links that every sandbox has: /var/run is a link to
// /run.
func cleanPath(p string) string {
	if p == "" || p[0] == '@' {
		return p
	}
	p = path.Clean(p)
	if rest, ok := strings.CutPrefix(p, "/var/run/"); ok {
		return "/run/" + rest
	}
	return p
}

// matchName returns how well t is what n asks for; 0: not at all. A written address is better
// than a wildcard. A wildcard of the same families is better than one of more or fewer.
//
// A wildcard target takes any address of its port. In a namespace with nothing but lo it makes
// no difference which address the service binds, and the service does not decide where its
// clients come from. A target with an address takes only that address.
func (t *Target) matchName(n name) int {
	a := t.Address
	four, six := a.Families()
	four = four || t.Mapped
	switch {
	case a.Type() != n.kind, (a.Path == "") != (n.path == ""):
		return 0
	case a.Path != "":
		if cleanPath(a.Path) == cleanPath(n.path) {
			return 1
		}
		return 0
	case a.Port != uint32(n.port):
		return 0
	case a.IP.IsValid():
		if a.IP.WithZone("") == n.ip { // inside there is no interface of that scope
			return 4
		}
		return 0
	case four == n.four && six == n.six:
		return 3
	case four && six:
		return 2
	case four && n.four, six && n.six:
		return 1
	}
	return 0
}

// findTarget returns the index of the target that n gets; -1: none.
func findTarget(targets []Target, n name) int {
	index, most := -1, 0
	for i := range targets {
		if fit := targets[i].matchName(n); fit > most {
			index, most = i, fit
		}
	}
	return index
}
