package spec

// Mount is one host path that is seen inside.
type Mount struct {
	Host   string // absolute, on the host
	Inside string // absolute, inside
}

// Sandbox says what encloses a service. The zero value is the strictest but
// for Seal: own namespaces, the host's system folders read-only, nothing writable
// but fresh /tmp, /run and /var, no connect, and the default system calls.
type Sandbox struct {
	Network      string   // "none" (also ""), "netns:NAME", an absolute path of a network namespace, "host"
	Root         string   // "": the host's /usr, /bin, /sbin, /lib*, /etc; else an absolute folder that becomes /
	ReadOnly     []Mount  // seen read-only
	Writable     []Mount  // seen writable
	Tmpfs        []string // absolute paths inside that are fresh and writable
	Users        []string // names or numbers: seen as what they are, beside its own
	Groups       []string // the same
	Capabilities []string // kept in the service's own user namespace, "CAP_NET_BIND_SERVICE"; none by default
	NewPrivs     bool     // no_new_privileges = false
	Init         bool     // a reaper as pid 1
	Hostname     string   // inside; "": the service's name

	Seal     bool        // sockets it inherits cannot be turned outward
	Names    bool        // with Seal: abstract unix names may be sent to; the sockets it inherits reach a relay's only
	Alone    bool        // Landlock does not keep its sockets from being connected or bound: what the filter leaves open a supervisor answers
	Withhold bool        // with Seal: what those who wait at a TCP listener would inherit is set by a supervisor, on other sockets than that
	Bind     bool        // bind and listen are answered by a supervisor, which has sockets for them
	Connect  string      // what it may connect to itself: "none" (also ""), "unix", "any"
	Reports  bool        // it may connect a socket to where it reports, whatever Connect says: its supervisor knows where
	Observe  Observation // what a supervisor answers, to tell of it
	Cores    bool        // it may dump core, as far as its limit goes
	Syscalls string      // "default" (also ""), "any": all but what Seal and Connect refuse

	Unmounted bool // it may get hold of files that are not mounted: a client can pass it a folder
}

// OwnNetwork reports whether the network is one of its own, with lo alone.
func (s Sandbox) OwnNetwork() bool { return s.Network == "" || s.Network == "none" }

// Supervised reports whether a supervisor answers every connect(2) of the process, and bind(2)
// and listen(2) too if [Sandbox.Overseen] is true, or some of setsockopt(2). Then there is a listener (seccomp_unotify(2)),
// and these calls wait for the supervisor's answer.
//
// Connect says to what a socket may be connected. The address is behind a pointer, where no filter
// sees it.
func (s Sandbox) Supervised() bool {
	return s.Overseen() || s.AsksToConnect() || s.Withhold || s.SeesOthers() || s.Observe != Unobserved
}

// SeesOthers reports whether there are users or groups beside its own. Then chown(2) is among these calls.
func (s Sandbox) SeesOthers() bool { return len(s.Users)+len(s.Groups) > 0 }

// Owners says to whom a process may give files that are its own, and where.
type Owners struct {
	UIDs, GIDs []int
	Mounts     []uint64 // by their numbers, STATX_MNT_ID
}

// AsksToConnect reports whether connect(2) is among these calls.
func (s Sandbox) AsksToConnect() bool {
	return s.Seal && s.Connect == "any" || s.Connect == "unix" || s.Reports && s.Connect != "any"
}

// Overseen reports whether bind(2) and listen(2) are among these calls. With the seal it also
// matters which socket is connected, and a dissolved connection must not be bound or listen. Nor
// may any other socket be bound that Landlock does not see. Bind is about these calls only.
func (s Sandbox) Overseen() bool {
	return s.Bind || s.Seal && (s.Alone || s.Connect == "unix" || s.Connect == "any")
}
