package listen

import (
	"io/fs"
	"slices"
	"time"

	"activator/internal/spec"
)

// Options are what a group of addresses shares. The zero value of each field
// leaves what the kernel does by itself.
type Options struct {
	Backlog int // connections; 0: the kernel's limit, net.core.somaxconn

	SocketMode    fs.FileMode // permission bits of the node; 0666 unless SocketModeSet
	SocketModeSet bool        // SocketMode was given (0000 is a mode too)
	SocketUser    string      // name or number; "": ours
	SocketGroup   string      // name or number; "": ours
	DirectoryMode fs.FileMode // permission bits of parents we make; 0: 0755
	KeepOnStop    bool        // leave node and symlinks behind (remove_on_stop = false)
	Symlinks      []string    // absolute paths that shall point at the node

	BindIPv6Only string // "": as the form of the address says; "both"; "ipv6-only"; "default": net.ipv6.bindv6only
	BindToDevice string // interface name
	FreeBind     bool
	Transparent  bool
	ReusePort    bool

	NoDelay           bool          // tcp
	KeepAlive         bool          // tcp
	KeepAliveTime     time.Duration // tcp; idle time before the first probe; whole seconds; 0: the kernel's
	KeepAliveInterval time.Duration // tcp; whole seconds; 0: the kernel's
	KeepAliveProbes   int           // tcp; 0: the kernel's
	DeferAccept       time.Duration // tcp; whole seconds; 0: off
	TCPCongestion     string        // tcp; algorithm; "": the kernel's
	MPTCP             bool          // tcp

	ReceiveBuffer int    // bytes, as given to SO_RCVBUF(FORCE); 0: the kernel's
	SendBuffer    int    // bytes; 0: the kernel's
	Priority      int    // SO_PRIORITY; PrioritySet tells 0 from not given
	PrioritySet   bool   //
	Mark          uint32 // SO_MARK; 0: none
	IPTOS         int    // 0 to 255; IPTOSSet tells 0 from not given
	IPTOSSet      bool   //
	IPTTL         int    // 1 to 255; 0: the kernel's
	Broadcast     bool   // udp
	Timestamping  string // "", "off", "us", "ns"

	PassCredentials bool // unix
	PassSecurity    bool // unix
	PassPacketInfo  bool // udp; IP_PKTINFO, IPV6_RECVPKTINFO
	RefuseRights    bool // unix; peers cannot send descriptors in, where the kernel has SO_PASSRIGHTS (pass_rights = false)

	PipeSize    int  // fifo; bytes; 0: the kernel's
	NonBlocking bool // O_NONBLOCK as the service gets the socket
}

// Spec is one socket to be: where it listens, what it is called and how it is
// set up. It is pure; [Open] makes the object.
type Spec struct {
	Address spec.Address
	Name    string // as in LISTEN_FDNAMES
	Options Options
	Seal    Seal
}

// Overlaps reports whether two sockets may stand in each other's way: the same
// port of addresses that overlap, or a path that both make. It errs on the side
// of true.
func (s Spec) Overlaps(other Spec) bool {
	a, b := s.Address, other.Address
	switch {
	case a == b:
		return true
	case a.TCP() && b.TCP(), a.UDP() && b.UDP():
		return a.Port == b.Port && (!a.IP.IsValid() || !b.IP.IsValid() || a.IP == b.IP)
	case a.Network == spec.VSock && b.Network == spec.VSock:
		return a.Port == b.Port && (a.CID == spec.CIDAny || b.CID == spec.CIDAny)
	}
	for _, path := range s.paths() {
		if slices.Contains(other.paths(), path) {
			return true
		}
	}
	return false
}

// Makes reports whether the socket, once it is open, has made what stands at path.
func (s Spec) Makes(path string) bool { return slices.Contains(s.paths(), path) }

// paths are what the socket makes in the file system, but folders.
func (s Spec) paths() []string {
	if s.Address.Node() == "" {
		return nil
	}
	return append([]string{s.Address.Node(), sparePath(s.Address.Node())}, s.Options.Symlinks...)
}
