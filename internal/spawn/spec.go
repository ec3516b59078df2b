package spawn

import (
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Spec says what to start and what to shut it in with. It is pure.
type Spec struct {
	Name string   // the service's; also its host name and, as root, the seed of its user id
	Argv []string // Argv[0] absolute, or without a slash: looked up in PATH inside
	Env  []string // complete, but for LISTEN_*, NOTIFY_SOCKET and the defaults of HOME and USER
	Dir  string   // absolute, inside; "": /

	Umask  int // as it is, 0 too
	Limits []spec.Limit

	ID          int    // of user and group, as root and without User; 0: sandbox.ServiceID
	User, Group string // names or numbers; "": the sandbox's own id as root, else ours

	FDNames     []string // LISTEN_FDNAMES, one for every socket
	Handed      Handed   // where the sockets are
	Notify      bool     // NOTIFY_SOCKET and [Process.NotifySocket]
	Directories []spec.Directory

	// Go says that somebody is there: the process does not wait for Release.
	Go bool

	// Waits says that it may be long until Release: what is taken from the host is
	// noted, for [Process.Fresh].
	Waits bool

	// Bare starts the program without a sandbox: with our namespaces, files and
	// privileges, for a container engine, which makes its own. With Sandbox.Init
	// everything it leaves behind dies with it and with us.
	Bare    bool
	Sandbox spec.Sandbox
}

// StageError is a step on the way to the program that was refused.
type StageError = sandbox.StepError

// Cured adds the cure to an error that tells of a shortage of descriptors.
func Cured(err error) error { return sandbox.Cured(err) }
