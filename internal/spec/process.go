package spec

import (
	"golang.org/x/sys/unix"
)

// Limit is one resource limit, as in setrlimit(2).
type Limit struct {
	Resource string // "nofile", "nproc", ... as in limits.conf(5), lower case
	Soft     uint64 // Unlimited: none
	Hard     uint64
}

// Unlimited is the limit that is none, RLIM_INFINITY.
const Unlimited = ^uint64(0)

// SoftDescriptors is a service's soft limit "nofile" where nothing is said of it: DefaultLimitNOFILE of
// systemd-system.conf(5). A program that uses select(2) can take no number above it, and some close all that
// they may have.
const SoftDescriptors = 1024

// resources are the names of limits.conf(5), with the rest of getrlimit(2). No
// map: the reaper and the guard would fill it at every start.
var resources = [...]struct {
	name   string
	number int
}{
	{"as", unix.RLIMIT_AS}, {"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA},
	{"fsize", unix.RLIMIT_FSIZE}, {"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK},
	{"msgqueue", unix.RLIMIT_MSGQUEUE}, {"nice", unix.RLIMIT_NICE}, {"nofile", unix.RLIMIT_NOFILE},
	{"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS}, {"rtprio", unix.RLIMIT_RTPRIO},
	{"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING}, {"stack", unix.RLIMIT_STACK},
}

// Resources are the names that a [Limit] may have, sorted.
func Resources() (names []string) {
	for _, r := range resources {
		names = append(names, r.name)
	}
	return names
}

// Number is the resource's, as setrlimit(2) takes it.
func (l Limit) Number() (number int, known bool) {
	for _, r := range resources {
		if r.name == l.Resource {
			return r.number, true
		}
	}
	return 0, false
}

// Directory is one of a service's own directories, as in systemd.exec(5),
// StateDirectory= and its siblings.
type Directory struct {
	Kind string // "state", "cache", "logs", "runtime"
	Name string // relative, below the kind's base folder
}
