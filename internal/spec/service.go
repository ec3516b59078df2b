package spec

import (
	"syscall"
	"time"
)

// Service is one service: all that its file says, with every default filled in, every
// relative path made absolute and every specifier expanded. It is comparable with
// reflect.DeepEqual.
type Service struct {
	File string // absolute path of its configuration
	Process
	Timeouts
	Resources
	Sockets []Socket // in the order of their descriptors

	Handover      Handover
	Accept        bool          // an instance for each connection
	MaxConns      int           // at a time, with Accept or Proxy; 0: the default, 64 or no limit
	MaxSource     int           // of them from one source, with Accept; 0: no limit
	SilentTimeout time.Duration // with Accept, how long nothing must have moved on a connection for it to be ended where others wait; 0: none is
	ConnTimeout   time.Duration // with Proxy, how long nothing may move on a connection, or between a client of UDP and the program; 0: for ever, or 2 minutes
	ProxyProtocol string        // with Proxy, of streams: "v1", "v2", the program is told of the client by a header; "": by the address it sees

	Seal       string // of what it inherits: "required", "best-effort", "off"
	StopSignal syscall.Signal
	Warm       bool   // a sandbox is kept ready while no client is there
	Stdout     string // "log", "inherit", "null", or an absolute path that is appended to
	Stderr     string
	Container  *Container // nil: our own sandbox
}

// Handover is how the sockets reach the program.
type Handover string

// The ways: inherited, in answer to its own bind(2), relayed to where it listens, or as
// stdin and stdout.
const (
	FDs   Handover = "fds"
	Bind  Handover = "bind"
	Proxy Handover = "proxy"
	Stdio Handover = "stdio"
)

// Timeouts are the times a service lives by.
type Timeouts struct {
	RestartDelay    time.Duration // rest after the first failure; it doubles with each further one
	RestartMaxDelay time.Duration // what it doubles up to
	Hold            time.Duration // how long a client may wait while nothing moves; 0: for ever
	StartTimeout    time.Duration // 0: none
	StopTimeout     time.Duration // 0: none
	IdleTimeout     time.Duration // how long no client uses the service until it is stopped; 0: never
}

// Container is what a container engine starts in place of a program.
type Container struct {
	Engine  string // "podman"
	Image   string
	Options []string
	Command []string // none: the image's own

	Internet bool // internet sockets can be made inside, to talk over its own lo
}

// InternetSockets reports whether a container's programs may make internet sockets.
func (s *Service) InternetSockets() bool {
	return s.Container != nil && (s.Container.Internet || !s.Sandbox.OwnNetwork())
}

// Inherits reports whether the program starts with its sockets.
func (s *Service) Inherits() bool { return s.Handover != Bind && s.Handover != Proxy }

// Complete fills in what follows from several keys together.
func (s *Service) Complete() {
	// A service without a socket of the host's has nothing to turn outward, and may use its own
	// sockets freely.
	s.Sandbox.Seal = s.Seal != "off" && s.Handover != Proxy
	s.Sandbox.Bind = s.Handover == Bind
	s.Warm = s.Warm && s.Container == nil
	if s.Handover == Stdio {
		s.Stdout = "null" // and then replaced
	}
	s.Handed, s.FDNames = s.placeSockets(), s.fdNames()
}

// placeSockets says where the program has its sockets.
func (s *Service) placeSockets() Handed {
	switch {
	case s.Accept && s.Handover == Stdio:
		return LaterStdio
	case s.Accept:
		return LaterFD
	case s.Handover == Stdio:
		return StdioStart
	}
	return AtStart
}

// fdNames are LISTEN_FDNAMES: none where the socket is stdin, "connection" of a
// client's, as in sd_listen_fds(3).
func (s *Service) fdNames() (names []string) {
	switch {
	case s.Handover == Stdio:
		return nil
	case s.Accept:
		return []string{"connection"}
	}
	for _, socket := range s.Sockets {
		names = append(names, socket.Name)
	}
	return names
}
