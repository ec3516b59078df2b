package spec

import (
	"io/fs"
	"time"

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

// NamespaceLimit is the number of a resource that is limited for all processes of a user namespace together, and not by
// setrlimit(2): /proc/sys/user, namespaces(7).
const NamespaceLimit = -1

// spareDescriptors is how many descriptors we have at least that no service may have, if we may have twice as many; mostProcesses
// is how many processes and threads a service has: an eighth of the numbers that there are by default.
const (
	spareDescriptors = 1024
	mostProcesses    = 4096
)

// LimitDescriptors is a service's limit "nofile" where nothing is said of it, and ours is most: less than that. As many
// descriptors as its hard limit says a user may have in flight (SCM_RIGHTS), and we are the same user where nobody is root:
// there have to be some left for us, by which the next service is started.
func LimitDescriptors(most uint64) Limit {
	hard := max(most-min(most, max(most/8, spareDescriptors)), most/2)
	return Limit{Resource: "nofile", Soft: min(SoftDescriptors, hard), Hard: hard}
}

// LimitProcesses is a service's limit "nproc" where nothing is said of it, and ours is most: one service alone does not use up
// what its user, or the machine, may have.
func LimitProcesses(most uint64) Limit {
	n := min(most/2, mostProcesses)
	return Limit{Resource: "nproc", Soft: n, Hard: n}
}

// resources are the names of limits.conf(5), with the rest of getrlimit(2), sorted.
var resources = [...]struct {
	name   string
	number int
}{
	{"as", unix.RLIMIT_AS}, {"core", unix.RLIMIT_CORE}, {"cpu", unix.RLIMIT_CPU}, {"data", unix.RLIMIT_DATA},
	{"fsize", unix.RLIMIT_FSIZE}, {"inotify_instances", NamespaceLimit}, {"inotify_watches", NamespaceLimit}, {"locks", unix.RLIMIT_LOCKS}, {"memlock", unix.RLIMIT_MEMLOCK},
	{"msgqueue", unix.RLIMIT_MSGQUEUE}, {"nice", unix.RLIMIT_NICE}, {"nofile", unix.RLIMIT_NOFILE},
	{"nproc", unix.RLIMIT_NPROC}, {"rss", unix.RLIMIT_RSS}, {"rtprio", unix.RLIMIT_RTPRIO},
	{"rttime", unix.RLIMIT_RTTIME}, {"sigpending", unix.RLIMIT_SIGPENDING}, {"stack", unix.RLIMIT_STACK},
}

// ListResources are the names that a [Limit] may have, sorted.
func ListResources() (names []string) {
	for _, r := range resources {
		names = append(names, r.name)
	}
	return names
}

// Number is the resource's, as setrlimit(2) takes it, or [NamespaceLimit].
func (l Limit) Number() (number int, known bool) {
	for _, r := range resources {
		if r.name == l.Resource {
			return r.number, true
		}
	}
	return 0, false
}

// Resources are what the processes of a service may have together, by their cgroup. 0: as much as there is.
type Resources struct {
	MemoryMax uint64 // bytes
	TasksMax  uint64 // processes and threads
	CPUWeight uint64 // of 100 that others have, where they all want the processors
}

// Directory is one of a service's own directories, as in systemd.exec(5),
// StateDirectory= and its siblings.
type Directory struct {
	Kind string // "state", "cache", "logs", "runtime"
	Name string // relative, below the kind's base folder
}

// Process is what to start, and the sandbox around it.
type Process struct {
	Name string   // the service's; also its host name and, as root, the seed of its user id
	Argv []string // Argv[0] absolute, or without a slash: looked up in PATH inside
	Env  []string // KEY=VALUE; LISTEN_*, NOTIFY_SOCKET and the defaults of PATH, LANG, HOME and USER are added
	Dir  string   // absolute, inside; "": /

	Umask  fs.FileMode // as it is, 0 too
	Limits []Limit     // sorted by resource

	ID          int    // of user and group, as root and without User; 0: one made of Name
	User, Group string // names or numbers; "": the sandbox's own id as root, else ours

	FDNames     []string      // LISTEN_FDNAMES, one for every socket
	Handed      Handed        // where the sockets are
	Notify      bool          // it says itself when it is ready
	Watchdog    time.Duration // it says that often that it is alive, and is ended if not; 0: need not
	StoreMax    int           // descriptors that it may leave for the next one; 0: none
	Syslog      bool          // it finds /dev/log, and what it says there is in the log; in a sandbox only
	Directories []Directory

	// Bare starts the program without a sandbox: with our namespaces, files and
	// privileges. With Sandbox.Init everything it leaves behind dies with it and with us.
	Bare    bool
	Sandbox Sandbox
}

// ShortestWatchdog is the shortest time that [Process].Watchdog may be: how fast the process is
// listened to has a limit.
const ShortestWatchdog = 100 * time.Millisecond

// Reports reports whether the process has a socket by which it tells of itself, NOTIFY_SOCKET.
func (p *Process) Reports() bool { return p.Notify || p.Watchdog > 0 || p.StoreMax > 0 }

// Handed says where a process has its sockets, and whether they come later.
type Handed int

// The places: all sockets from the beginning, or one that is brought to a process
// that waits for it.
const (
	AtStart    Handed = iota // from 3 on, all of them from the beginning
	LaterFD                  // 3, brought
	LaterStdio               // 0 and 1, brought
	StdioStart               // 0 and 1, the only socket, from the beginning
)
