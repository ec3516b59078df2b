package config

import (
	"io/fs"
	"syscall"
	"time"

	"activator/internal/listen"
	"activator/internal/spec"
)

// Service is one file, understood: every default filled in, every relative path
// made absolute, every specifier expanded. It is pure and comparable with
// reflect.DeepEqual.
type Service struct {
	Name    string // the file's name without .toml
	File    string // absolute path of the file
	Sockets []Socket

	Exec     []string // argv; Exec[0] is absolute, or has no slash: looked up in PATH
	Handover string   // "fds"
	Accept   bool     // one instance per connection
	MaxConns int      // max_connections
	// MaxConnsSet says that max_connections was given: without it only accept has a limit.
	MaxConnsSet   bool
	ConnTimeout   time.Duration // connection_timeout; 0: never
	ProxyProtocol string        // "none", "v1", "v2"
	MaxSource     int           // max_connections_per_source; 0: no limit

	Environment      []string // KEY=VALUE, sorted, as the program gets it
	WorkingDirectory string   // absolute, inside
	User, Group      string   // name or number; "": see sandbox
	Umask            fs.FileMode
	Limits           []spec.Limit // sorted by resource
	Directories      []spec.Directory

	StartTimeout time.Duration // 0: none ("infinity")
	StopTimeout  time.Duration // 0: none ("infinity")
	StopSignal   syscall.Signal
	Notify       bool

	RestartDelay    time.Duration
	RestartMaxDelay time.Duration
	Hold            time.Duration // 0: clients wait for ever ("infinity")
	IdleTimeout     time.Duration // 0: never
	Warm            bool

	Stdout, Stderr string // "log", "inherit", "null", or an absolute path

	Sandbox   Sandbox
	Container *Container // nil: our own sandbox
}

// Socket is one address of a [[socket]] table.
type Socket struct {
	listen.Spec
	Target spec.Address // what the program itself binds; zero: none
}

// Sandbox is the [sandbox] table: the policy, and the words about it that are
// not policy of the namespace.
type Sandbox struct {
	spec.Sandbox
	Seal string // "required", "best-effort", "off"; "off" also of a container and with network "host"
}

// Container is the [container] table.
type Container struct {
	Engine  string // "podman"
	Image   string
	Options []string
	Command []string
}
