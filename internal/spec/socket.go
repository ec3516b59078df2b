package spec

import (
	"fmt"
	"io/fs"
	"time"
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

// Socket is one socket to be: where it listens, what it is called and how it is
// set up.
type Socket struct {
	Address Address
	Name    string // as in LISTEN_FDNAMES
	Options Options
	Seal    Seal
	Target  Address // what the program itself listens at, with handover bind and proxy; zero: none
	Mapped  bool    // of UDP: the socket is one of IPv6, though the address is one of IPv4
}

// Seal is what keeps a service from turning a socket it was lent outward.
type Seal uint8

// The seals of a socket. [Sandbox] says what its filter refuses.
const (
	Unsealed    Seal = iota // a plain socket
	ReplyOnly               // it can only answer
	Relayed                 // a datagram socket whose service gets a relay socket in its place
	ReceiveOnly             // a unix datagram socket that cannot send any more
	AcceptOnly              // a TCP listener that cannot connect, nor set what can harm those who wait
)

func (s Seal) String() string {
	switch s {
	case Unsealed:
		return "unsealed"
	case ReplyOnly:
		return "reply only"
	case Relayed:
		return "relayed"
	case ReceiveOnly:
		return "receive only"
	case AcceptOnly:
		return "accept only"
	}
	return fmt.Sprintf("seal %d", uint8(s))
}
