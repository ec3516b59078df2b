package spec

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
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

// Network is the word before "://" in an address.
type Network string

// The networks an address may name. TCP and UDP with an empty host are dual
// stack, the forms with a digit force one family.
const (
	TCP        Network = "tcp"
	TCP4       Network = "tcp4"
	TCP6       Network = "tcp6"
	UDP        Network = "udp"
	UDP4       Network = "udp4"
	UDP6       Network = "udp6"
	Unix       Network = "unix"
	UnixGram   Network = "unixgram"
	UnixPacket Network = "unixpacket"
	VSock      Network = "vsock"
	FIFO       Network = "fifo"
)

// Kind is what socket(2) asks for, without flags.
type Kind struct{ Family, Type, Protocol int }

// Address is a parsed listen address: a pure, comparable value. Two addresses
// that bind the same place are equal.
type Address struct {
	Network Network
	IP      netip.Addr // tcp and udp; with zone; the zero Addr is the wildcard of Network
	Port    uint32     // tcp and udp: 1 to 65535; vsock: 1 to 1<<32 - 2
	CID     uint32     // vsock; CIDAny for an empty one
	Path    string     // unix*: absolute path, or "@name" for abstract; fifo: absolute path
}

// AddressError says what is wrong with a text that is no address.
type AddressError struct {
	Written string
	Text    string // what is wrong with it
	Cure    string // what to write instead; "": Text says it
}

func (e *AddressError) Error() string {
	text := fmt.Sprintf("listen address %q: %s", e.Written, e.Text)
	if e.Cure != "" {
		text += "; " + e.Cure
	}
	return text
}

func newAddressError(cure, format string, args ...any) error {
	return &AddressError{Text: fmt.Sprintf(format, args...), Cure: cure}
}

// networks are the words that may stand before "://", in the order they are
// told to the user.
var networks = []Network{TCP, UDP, TCP4, TCP6, UDP4, UDP6, Unix, UnixGram, UnixPacket, VSock, FIFO}

// ParseAddress reads a listen address such as "tcp://127.0.0.1:3000". It looks
// nothing up: names of hosts, services and interfaces stay names or are
// refused. Forms that bind the same place give equal addresses. The error
// is an [*AddressError].
func ParseAddress(s string) (Address, error) {
	a, err := parseAddress(s)
	var wrong *AddressError
	if errors.As(err, &wrong) {
		wrong.Written = s
	}
	return a, err
}

func parseAddress(s string) (Address, error) {
	switch {
	case s == "":
		return Address{}, newAddressError(`write for example "tcp://127.0.0.1:3000"`, "is empty")
	case strings.IndexByte(s, 0) >= 0:
		return Address{}, newAddressError("", "contains a NUL byte")
	case !utf8.ValidString(s):
		return Address{}, newAddressError("", "is not valid UTF-8")
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
	if lower := Network(strings.ToLower(word)); slices.Contains(networks, lower) {
		return Address{}, newAddressError("", "write %q in small letters", lower)
	}
	return Address{}, newAddressError("one of "+networkList(), "unknown network %q", word)
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
	case slices.Contains(networks, Network(word)):
		meant = word + "://" + strings.TrimLeft(rest, "/")
		if strings.HasPrefix(rest, "/") && !Network(word).isInternet() {
			meant = word + "://" + rest
		}
	case strings.Trim(s, "0123456789") == "":
		meant = "tcp://:" + s
	default:
		meant = "tcp://" + s
	}
	if _, err := parseAddress(meant); err != nil {
		return newAddressError("it begins with one of "+networkList(), "says no network")
	}
	return newAddressError(fmt.Sprintf("write %q", meant), "says no network")
}

func parseInternet(network Network, rest string) (Address, error) {
	if strings.ContainsAny(rest, "/?#") {
		return Address{}, newAddressError(`no "/", "?" or "#"`, "ends after the port")
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
	return a.makeCanonical(), nil
}

// splitHostPort splits "host:port", where an IPv6 host stands in brackets.
func splitHostPort(network Network, s string) (host, port string, err error) {
	if strings.HasPrefix(s, "[") {
		inside, after, found := strings.Cut(s[1:], "]")
		switch {
		case !found:
			return "", "", newAddressError("", `"[" without "]"`)
		case strings.HasPrefix(after, "%"):
			return "", "", newAddressError("", `the scope belongs inside the brackets, as in "%s://[fe80::1%%eth0]:80"`, network)
		case after == "":
			return "", "", newAddressError(fmt.Sprintf(`write "%s://[%s]:PORT"`, network, inside), "has no port")
		case after[0] != ':':
			return "", "", newAddressError("", `after "]" comes ":PORT", not %q`, after)
		case !strings.Contains(inside, ":"):
			return "", "", newAddressError("", "only an IPv6 address stands in brackets, not %q", inside)
		}
		return inside, after[1:], nil
	}
	if strings.Count(s, ":") > 1 {
		if _, err := netip.ParseAddr(s); err == nil {
			return "", "", newAddressError(fmt.Sprintf(`write "%s://[%s]:PORT"`, network, s), "an IPv6 address stands in brackets and has a port")
		}
		return "", "", newAddressError("", `an IPv6 address stands in brackets, as in "%s://[::1]:80"`, network)
	}
	host, port, found := strings.Cut(s, ":")
	if !found {
		if s != "" && strings.Trim(s, "0123456789") == "" {
			return "", "", newAddressError(fmt.Sprintf(`for port %s on all addresses write "%s://:%s"`, s, network, s), "has no port")
		}
		return "", "", newAddressError(fmt.Sprintf(`write "%s://%s:PORT"`, network, s), "has no port")
	}
	return host, port, nil
}

func parsePort(s string) (uint32, error) {
	if s == "" {
		return 0, newAddressError("1 to 65535", "the port is empty")
	}
	if strings.Contains(s, "%") {
		return 0, newAddressError("", `the scope belongs inside the brackets, as in "[fe80::1%%eth0]:80"`)
	}
	n, err := parseNumber("port", s)
	switch {
	case err != nil:
		return 0, err
	case n == 0:
		return 0, newAddressError("1 to 65535", "port 0 would be another one at every start")
	case n > 65535:
		return 0, newAddressError("1 to 65535", "port %s is too large", s)
	}
	return n, nil
}

// parseNumber reads decimal digits only: no sign, no space, no leading zero.
func parseNumber(what, s string) (uint32, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, newAddressError("", "%s %q is not a decimal number", what, s)
		}
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, newAddressError("", "%s %q has a leading zero", what, s)
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if errors.Is(err, strconv.ErrRange) {
		return 0, newAddressError("", "%s %q is too large", what, s)
	}
	if err != nil {
		return 0, newAddressError("", "%s %q is not a decimal number", what, s)
	}
	return uint32(n), nil
}

func parseHost(network Network, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, nil
	}
	if host == "*" {
		return netip.Addr{}, newAddressError("", `"*" is written as an empty host, as in "tcp://:80"`)
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if strings.Contains(host, ":") {
			return netip.Addr{}, newAddressError("", "%q is not an IPv6 address", host)
		}
		if strings.Trim(host, "0123456789.") == "" {
			return netip.Addr{}, newAddressError("", "%q is not an IPv4 address", host)
		}
		if host == "localhost" {
			return netip.Addr{}, newAddressError(`write "127.0.0.1", and a second address with "[::1]"`, "names are not looked up")
		}
		return netip.Addr{}, newAddressError("write the address", "%q is not an IP address, and names are not looked up", host)
	}
	switch {
	case ip.Is4In6():
		return netip.Addr{}, newAddressError(fmt.Sprintf("write %q", ip.WithZone("").Unmap()), "%q is an IPv4 address in IPv6 clothes", host)
	case ip.Is4() && (network == TCP6 || network == UDP6):
		return netip.Addr{}, newAddressError("", "%q is an IPv4 address, but %s:// takes only IPv6", host, network)
	case ip.Is6() && (network == TCP4 || network == UDP4):
		return netip.Addr{}, newAddressError("", "%q is an IPv6 address, but %s:// takes only IPv4", host, network)
	}
	return ip, checkZone(ip.Zone())
}

// checkZone refuses what can never be an interface: dev_valid_name() of the
// kernel, at most IFNAMSIZ-1 bytes.
func checkZone(zone string) error {
	if len(zone) > 15 || zone == "." || zone == ".." || strings.ContainsAny(zone, "/:% \t\n\v\f\r") {
		return newAddressError("", "scope %q cannot be the name of a network interface", zone)
	}
	return nil
}

// makeCanonical makes forms that bind the same place equal. A digit after tcp or udp matters for
// the wildcard only. "0.0.0.0" is the wildcard of tcp4. "[::]" is that of tcp, or of tcp6 where the
// 6 was written.
func (a Address) makeCanonical() Address {
	wild := !a.IP.IsValid() || (a.IP.IsUnspecified() && a.IP.Zone() == "")
	switch {
	case !wild && a.IsUDP():
		a.Network = UDP
	case !wild:
		a.Network = TCP
	case a.IP.Is4() && a.IsUDP():
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
			return Address{}, newAddressError("", `the abstract name after "@" is empty`)
		}
		if len(rest) > maxUnixPath {
			return Address{}, newAddressError(fmt.Sprintf("the kernel takes %d", maxUnixPath), `the abstract name has %d bytes with its "@"`, len(rest))
		}
		return Address{Network: network, Path: rest}, nil
	}
	p, err := parsePath(network, rest, maxUnixPath)
	return Address{Network: network, Path: p}, err
}

// parsePath takes an absolute path and drops "//", "/./" and a final "/".
func parsePath(network Network, p string, longest int) (string, error) {
	if p == "" {
		return "", newAddressError(fmt.Sprintf(`write "%s:///run/NAME"`, network), "has no path")
	}
	if p[0] != '/' {
		cure := fmt.Sprintf(`write "%s:///%s"`, network, p)
		if network != FIFO {
			cure += fmt.Sprintf(`, or "%s://@%s" for an abstract name`, network, p)
		}
		return "", newAddressError(cure, "path %q is not absolute", p)
	}
	if text, cure := ExplainParent(p); text != "" {
		return "", newAddressError(cure, "%s", text)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > unix.NAME_MAX {
			return "", newAddressError(fmt.Sprintf("the kernel takes %d", unix.NAME_MAX), "a name in the path has %d bytes", len(name))
		}
	}
	p = path.Clean(p)
	if p == "/" {
		return "", newAddressError("", "the path is the root folder")
	}
	if len(p) > longest {
		return "", newAddressError(fmt.Sprintf("the kernel takes %d", longest), "the path has %d bytes", len(p))
	}
	return p, nil
}

func parseVSock(rest string) (Address, error) {
	cid, port, found := strings.Cut(rest, ":")
	if !found {
		return Address{}, newAddressError(fmt.Sprintf(`write "vsock://%s:PORT"`, rest), "has no port")
	}
	a := Address{Network: VSock, CID: CIDAny}
	var err error
	if cid != "" {
		if a.CID, err = parseNumber("CID", cid); err != nil {
			return Address{}, err
		}
	}
	if port == "" {
		return Address{}, newAddressError("", "the port is empty")
	}
	if a.Port, err = parseNumber("port", port); err != nil {
		return Address{}, err
	}
	if a.Port == 0 || a.Port == CIDAny {
		return Address{}, newAddressError("1 to 4294967294", "port %s is not one to listen on", port)
	}
	return a, nil
}

// String returns the canonical form: [ParseAddress] gives a back from it.
func (a Address) String() string {
	switch {
	case a.Network.isInternet():
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

func (n Network) isInternet() bool {
	switch n {
	case TCP, TCP4, TCP6, UDP, UDP4, UDP6:
		return true
	}
	return false
}

// IsInternet reports whether a has an IP address and a port.
func (a Address) IsInternet() bool { return a.Network.isInternet() }

// IsTCP reports whether a is a TCP address of either family.
func (a Address) IsTCP() bool {
	return a.Network == TCP || a.Network == TCP4 || a.Network == TCP6
}

// IsUDP reports whether a is a UDP address of either family.
func (a Address) IsUDP() bool {
	return a.Network == UDP || a.Network == UDP4 || a.Network == UDP6
}

// IsUnix reports whether a is a unix socket of any kind.
func (a Address) IsUnix() bool {
	return a.Network == Unix || a.Network == UnixGram || a.Network == UnixPacket
}

// IsStream reports whether clients connect and are accepted: everything but
// datagrams and FIFOs.
func (a Address) IsStream() bool {
	return !a.IsUDP() && a.Network != UnixGram && a.Network != FIFO
}

// Type is what socket(2) asks for, 0 of a FIFO.
func (a Address) Type() int {
	switch {
	case a.Network == FIFO:
		return 0
	case a.IsUDP(), a.Network == UnixGram:
		return unix.SOCK_DGRAM
	case a.Network == UnixPacket:
		return unix.SOCK_SEQPACKET
	}
	return unix.SOCK_STREAM
}

// Families are those of the IP protocols that a serves.
func (a Address) Families() (four, six bool) {
	if a.IP.IsValid() {
		return a.IP.Unmap().Is4(), !a.IP.Unmap().Is4()
	}
	return a.Network != TCP6 && a.Network != UDP6, a.Network != TCP4 && a.Network != UDP4
}

// FindTarget returns what is written as the target of a, for a program that binds bound. By a socket of both families a
// program names all clients of datagrams as those of IPv6.
func (a Address) FindTarget(bound Address) Address {
	four, six := bound.Families()
	if _, has := a.Families(); a.IsUDP() && !has && bound.Network == UDP && four && six {
		bound.Network = UDP6
	}
	return bound
}

// ReservePath returns the path of the second name that a node has, in the same folder.
func ReservePath(node string) string {
	return path.Join(path.Dir(node), "."+path.Base(node)+".activator")
}

// Node returns the path of the node that a makes in the file system, "" when it
// makes none.
func (a Address) Node() string {
	if strings.HasPrefix(a.Path, "/") {
		return a.Path
	}
	return ""
}
