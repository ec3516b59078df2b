package sandbox

// Mount is one host path that is seen inside.
type Mount struct {
	Host   string // absolute, on the host
	Inside string // absolute, inside
}

// Spec says what a service is shut in with. The zero value is the strictest:
// own namespaces, the host's system folders read-only, nothing writable but
// fresh /tmp, /run and /var.
type Spec struct {
	Network      string   // "none" (also ""), "netns:NAME", an absolute path of a network namespace, "host"
	Root         string   // "": the host's /usr, /bin, /sbin, /lib*, /etc; else an absolute folder that becomes /
	ReadOnly     []Mount  // seen read-only
	Writable     []Mount  // seen writable
	Tmpfs        []string // absolute paths inside that are fresh and writable
	Capabilities []string // kept in the service's own user namespace, "CAP_NET_BIND_SERVICE"; none by default
	NewPrivs     bool     // no_new_privileges = false
	Init         bool     // a reaper as pid 1
	Hostname     string   // inside; "": the service's name
}
