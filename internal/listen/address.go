package listen

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	// maxUnixPath is the longest path or "@name" of a unix socket in bytes:
	// sun_path has 108, one of them for the final NUL. unix(7).
	maxUnixPath = 107

	maxPath = unix.PathMax - 1 // bytes, without the final NUL

	// CIDAny is the CID of an empty one: every CID of this machine; the port of
	// the same value is "any port". vsock(7).
	CIDAny = 1<<32 - 1
)

// networks are the words that may stand before "://", in the order they are
// told to the user.
var networks = []Network{TCP, UDP, TCP4, TCP6, UDP4, UDP6, Unix, UnixGram, UnixPacket, VSock, FIFO}

// ParseAddress reads a listen address such as "tcp://127.0.0.1:3000". It looks
// nothing up: names of hosts, services and interfaces stay names or are
// refused. Forms that bind the same place give equal addresses. The error
// quotes s and says what to write instead.
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(s)
	if err != nil {
		return Address{}, fmt.Errorf("listen address %q: %w", s, err)
	}
	return a, nil
}

func parseAddress(s string) (Address, error) {
	switch {
	case s == "":
		return Address{}, errors.New(`is empty; write for example "tcp://127.0.0.1:3000"`)
	case strings.IndexByte(s, 0) >= 0:
		return Address{}, errors.New("contains a NUL byte")
	case !utf8.ValidString(s):
		return Address{}, errors.New("is not valid UTF-8")
	}
	word, rest, found := strings.Cut(s, "://")
	if !found {
		return Address{}, noNetwork(s)
	}
	network := Network(word)
	switch network {
	case TCP, TCP4, TCP6, UDP, UDP4, UDP6:
		return parseInternet(network, rest)
	case Unix, UnixGram, UnixPacket:
		return parseUnix(network, rest)
	case VSock:
		return parseVSock(rest)
	case FIFO:
		p, err := parsePath(network, rest, maxPath)
		return Address{Network: network, Path: p}, err
	}
	if lower := Network(strings.ToLower(word)); known(lower) {
		return Address{}, fmt.Errorf("write %q in small letters", lower)
	}
	return Address{}, fmt.Errorf("unknown network %q; one of %s", word, networkList())
}

func known(n Network) bool {
	for _, k := range networks {
		if n == k {
			return true
		}
	}
	return false
}

func networkList() string {
	words := make([]string, len(networks))
	for i, n := range networks {
		words[i] = string(n) + "://"
	}
	return strings.Join(words, " ")
}

// noNetwork guesses what was meant by an address without "://": systemd's
// ListenStream= takes such forms.
func noNetwork(s string) error {
	meant := ""
	switch word, rest, _ := strings.Cut(s, ":"); {
	case s[0] == '/' || s[0] == '@':
		meant = "unix://" + s
	case word == string(VSock):
		meant = "vsock://" + strings.TrimLeft(rest, "/")
	case known(Network(word)):
		meant = word + "://" + strings.TrimLeft(rest, "/")
		if strings.HasPrefix(rest, "/") && !Network(word).internet() {
			meant = word + "://" + rest
		}
	case strings.Trim(s, "0123456789") == "":
		meant = "tcp://:" + s
	default:
		meant = "tcp://" + s
	}
	if _, err := parseAddress(meant); err != nil {
		return fmt.Errorf("says no network; it begins with one of %s", networkList())
	}
	return fmt.Errorf("says no network; write %q", meant)
}

func parseInternet(network Network, rest string) (Address, error) {
	if strings.ContainsAny(rest, "/?#") {
		return Address{}, errors.New(`ends after the port; no "/", "?" or "#"`)
	}
	host, port, err := splitHostPort(network, rest)
	if err != nil {
		return Address{}, err
	}
	a := Address{Network: network}
	if a.Port, err = parsePort(port); err != nil {
		return Address{}, err
	}
	if a.IP, err = parseHost(network, host); err != nil {
		return Address{}, err
	}
	return a.canonical(), nil
}

// splitHostPort splits "host:port", where an IPv6 host stands in brackets.
func splitHostPort(network Network, s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		inside, after, found := strings.Cut(s[1:], "]")
		switch {
		case !found:
			return "", "", errors.New(`"[" without "]"`)
		case strings.HasPrefix(after, "%"):
			return "", "", fmt.Errorf(`the scope belongs inside the brackets, as in "%s://[fe80::1%%eth0]:80"`, network)
		case after == "":
			return "", "", fmt.Errorf("has no port; write \"%s://[%s]:PORT\"", network, inside)
		case after[0] != ':':
			return "", "", fmt.Errorf("after \"]\" comes \":PORT\", not %q", after)
		case !strings.Contains(inside, ":"):
			return "", "", fmt.Errorf("only an IPv6 address stands in brackets, not %q", inside)
		}
		return inside, after[1:], nil
	}
	if strings.Count(s, ":") > 1 {
		if _, err := netip.ParseAddr(s); err == nil {
			return "", "", fmt.Errorf("an IPv6 address stands in brackets and has a port; write \"%s://[%s]:PORT\"", network, s)
		}
		return "", "", fmt.Errorf(`an IPv6 address stands in brackets, as in "%s://[::1]:80"`, network)
	}
	host, port, found := strings.Cut(s, ":")
	if !found {
		if s != "" && strings.Trim(s, "0123456789") == "" {
			return "", "", fmt.Errorf("has no port; for port %s on all addresses write \"%s://:%s\"", s, network, s)
		}
		return "", "", fmt.Errorf("has no port; write \"%s://%s:PORT\"", network, s)
	}
	return host, port, nil
}

func parsePort(s string) (uint32, error) {
	if s == "" {
		return 0, errors.New("the port is empty; 1 to 65535")
	}
	if strings.Contains(s, "%") {
		return 0, errors.New(`the scope belongs inside the brackets, as in "[fe80::1%eth0]:80"`)
	}
	n, err := parseNumber(s)
	switch {
	case err != nil:
		return 0, fmt.Errorf("port %w", err)
	case n == 0:
		return 0, errors.New("port 0 would be another one at every start; 1 to 65535")
	case n > 65535:
		return 0, fmt.Errorf("port %s is too large; 1 to 65535", s)
	}
	return n, nil
}

// parseNumber reads decimal digits only: no sign, no space, no leading zero.
func parseNumber(s string) (uint32, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, fmt.Errorf("%q is not a decimal number", s)
		}
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%q has a leading zero", s)
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%q is too large", s)
	}
	if err != nil {
		return 0, fmt.Errorf("%q is not a decimal number", s)
	}
	return uint32(n), nil
}

func parseHost(network Network, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, nil
	}
	if host == "*" {
		return netip.Addr{}, errors.New(`"*" is written as an empty host, as in "tcp://:80"`)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if strings.Contains(host, ":") {
			return netip.Addr{}, fmt.Errorf("%q is not an IPv6 address", host)
		}
		if strings.Trim(host, "0123456789.") == "" {
			return netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", host)
		}
		if host == "localhost" {
			return netip.Addr{}, errors.New(`names are not looked up; write "127.0.0.1", and a second address with "[::1]"`)
		}
		return netip.Addr{}, fmt.Errorf("%q is not an IP address, and names are not looked up; write the address", host)
	}
	switch {
	case ip.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address in IPv6 clothes; write %q", host, ip.WithZone("").Unmap())
	case ip.Is4() && (network == TCP6 || network == UDP6):
		return netip.Addr{}, fmt.Errorf("%q is an IPv4 address, but %s:// takes only IPv6", host, network)
	case ip.Is6() && (network == TCP4 || network == UDP4):
		return netip.Addr{}, fmt.Errorf("%q is an IPv6 address, but %s:// takes only IPv4", host, network)
	}
	return ip, checkZone(ip.Zone())
}

// checkZone refuses what can never be an interface: dev_valid_name() of the
// kernel, at most IFNAMSIZ-1 bytes.
func checkZone(zone string) error {
	if len(zone) > 15 || zone == "." || zone == ".." || strings.ContainsAny(zone, "/:% \t\n\v\f\r") {
		return fmt.Errorf("scope %q cannot be the name of a network interface", zone)
	}
	return nil
}

// canonical brings forms that bind the same place together: a digit after tcp
// or udp matters for the wildcard only, "0.0.0.0" is the wildcard of tcp4 and
// "[::]" that of tcp, or of tcp6 where the six was said.
func (a Address) canonical() Address {
	wild := !a.IP.IsValid() || (a.IP.IsUnspecified() && a.IP.Zone() == "")
	datagram := a.Network == UDP || a.Network == UDP4 || a.Network == UDP6
	switch {
	case !wild && datagram:
		a.Network = UDP
	case !wild:
		a.Network = TCP
	case a.IP.Is4() && datagram:
		a.Network, a.IP = UDP4, netip.Addr{}
	case a.IP.Is4():
		a.Network, a.IP = TCP4, netip.Addr{}
	default:
		a.IP = netip.Addr{}
	}
	return a
}

func parseUnix(network Network, rest string) (Address, error) {
	if strings.HasPrefix(rest, "@") {
		if rest == "@" {
			return Address{}, errors.New(`the abstract name after "@" is empty`)
		}
		if len(rest) > maxUnixPath {
			return Address{}, fmt.Errorf("the abstract name has %d bytes with its \"@\"; the kernel takes %d", len(rest), maxUnixPath)
		}
		return Address{Network: network, Path: rest}, nil
	}
	p, err := parsePath(network, rest, maxUnixPath)
	return Address{Network: network, Path: p}, err
}

// parsePath takes an absolute path and drops "//", "/./" and a final "/".
func parsePath(network Network, p string, longest int) (string, error) {
	if p == "" {
		return "", fmt.Errorf("has no path; write \"%s:///run/NAME\"", network)
	}
	if p[0] != '/' {
		if network != FIFO {
			return "", fmt.Errorf("path %q is not absolute; write \"%s:///%s\", or \"%s://@%s\" for an abstract name", p, network, p, network, p)
		}
		return "", fmt.Errorf("path %q is not absolute; write \"%s:///%s\"", p, network, p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if name == ".." {
			return "", errors.New(`".." in the path leads elsewhere when a folder is a link; write the path without it`)
		}
		if len(name) > unix.NAME_MAX {
			return "", fmt.Errorf("a name in the path has %d bytes; the kernel takes %d", len(name), unix.NAME_MAX)
		}
	}
	p = path.Clean(p)
	if p == "/" {
		return "", errors.New("the path is the root folder")
	}
	if len(p) > longest {
		return "", fmt.Errorf("the path has %d bytes; the kernel takes %d", len(p), longest)
	}
	return p, nil
}

func parseVSock(rest string) (Address, error) {
	cid, port, found := strings.Cut(rest, ":")
	if !found {
		return Address{}, fmt.Errorf(`has no port; write "vsock://%s:PORT"`, rest)
	}
	a := Address{Network: VSock, CID: CIDAny}
	var err error
	if cid != "" {
		if a.CID, err = parseNumber(cid); err != nil {
			return Address{}, fmt.Errorf("CID %w", err)
		}
	}
	if port == "" {
		return Address{}, errors.New("the port is empty")
	}
	if a.Port, err = parseNumber(port); err != nil {
		return Address{}, fmt.Errorf("port %w", err)
	}
	if a.Port == 0 || a.Port == CIDAny {
		return Address{}, fmt.Errorf("port %s is not one to listen on; 1 to 4294967294", port)
	}
	return a, nil
}

// String returns the canonical form: [ParseAddress] gives a back from it.
func (a Address) String() string {
	switch {
	case a.Network.internet():
		host := ""
		if a.IP.IsValid() {
			host = a.IP.String()
		}
		if strings.Contains(host, ":") {
			host = "[" + host + "]"
		}
		return fmt.Sprintf("%s://%s:%d", a.Network, host, a.Port)
	case a.Network == VSock && a.CID == CIDAny:
		return fmt.Sprintf("vsock://:%d", a.Port)
	case a.Network == VSock:
		return fmt.Sprintf("vsock://%d:%d", a.CID, a.Port)
	}
	return string(a.Network) + "://" + a.Path
}

func (n Network) internet() bool {
	switch n {
	case TCP, TCP4, TCP6, UDP, UDP4, UDP6:
		return true
	}
	return false
}

// Internet reports whether a has an IP address and a port.
func (a Address) Internet() bool { return a.Network.internet() }

// TCP reports whether a is a TCP address of either family.
func (a Address) TCP() bool {
	return a.Network == TCP || a.Network == TCP4 || a.Network == TCP6
}

// UDP reports whether a is a UDP address of either family.
func (a Address) UDP() bool {
	return a.Network == UDP || a.Network == UDP4 || a.Network == UDP6
}

// Unix reports whether a is a unix socket of any kind.
func (a Address) Unix() bool {
	return a.Network == Unix || a.Network == UnixGram || a.Network == UnixPacket
}

// Stream reports whether clients connect and are accepted: everything but
// datagrams and FIFOs.
func (a Address) Stream() bool {
	return !a.UDP() && a.Network != UnixGram && a.Network != FIFO
}

// Node returns the path of the node that a makes in the file system, "" when it
// makes none.
func (a Address) Node() string {
	if strings.HasPrefix(a.Path, "/") {
		return a.Path
	}
	return ""
}
