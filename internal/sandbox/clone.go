package sandbox

import (
	"hash/fnv"
	"os"
	"slices"
	"strings"
	"sync"

	idmap "github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"activator/internal/spec"
)

// The range of user ids for services that name none: systemd's for dynamic
// users (systemd.exec(5), DynamicUser=), which distributions keep free.
const (
	firstServiceID = 61184
	lastServiceID  = 65519
)

// buildCapabilities is what [Plan.Build] and [Plan.Confine] need in the new user
// namespace: mounts, lo and the host name, what the namespace may have, and dropping all of it again.
const buildCapabilities = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_SETPCAP

// ServiceID is the user and group id a service gets as root when it names no
// user: its name's place in the range, or the next one that is not taken. So it is
// the same one at every start, and its directories stay its own, unless another
// service with the same place came before it. taken may be nil.
func ServiceID(name string, taken func(id int) bool) int {
	const count = lastServiceID - firstServiceID + 1
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	place := int(hash.Sum32() % count)
	for i := range count {
		if id := firstServiceID + (place+i)%count; taken == nil || !taken(id) {
			return id
		}
	}
	return firstServiceID + place // more services than ids
}

// MapsID reports whether our own user namespace has an id as a user's and as a group's: in one with
// a single id a service can only be that id.
func MapsID(id int) bool { return MapsUser(id) && MapsGroup(id) }

// MapsUser reports whether our own user namespace has the id of a user.
func MapsUser(id int) bool { return isMapped(userMap, id) }

// MapsGroup reports whether our own user namespace has the id of a group.
func MapsGroup(id int) bool { return isMapped(groupMap, id) }

// Both maps are read once: nothing changes them once we run, user_namespaces(7).
var (
	userMap  = sync.OnceValues(func() ([]idmap.IDMap, error) { return idmap.ParseIDMapFile("/proc/self/uid_map") })
	groupMap = sync.OnceValues(func() ([]idmap.IDMap, error) { return idmap.ParseIDMapFile("/proc/self/gid_map") })
)

func isMapped(read func() ([]idmap.IDMap, error), id int) bool {
	maps, err := read()
	return err != nil || // no /proc: let the kernel say it
		slices.ContainsFunc(maps, func(m idmap.IDMap) bool { return int64(id) >= m.ID && int64(id) < m.ID+m.Count })
}

// DeniesGroups reports whether nobody may set groups in our user namespace, user_namespaces(7).
func DeniesGroups() bool {
	text, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "deny"
}

// CloneFlags is the kernel's half of the sandbox: the namespaces a process is born
// into, as flags of clone(2). That of mounts is not among them: a copy of the host's
// keeps everything mounted, so [Plan.Build] makes it, and soon lets go of all that.
func CloneFlags(s spec.Sandbox) uintptr {
	flags := uintptr(unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
		unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if s.OwnNetwork() {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// Capabilities is what the child has while it is built, bit n for number n: what
// that takes and what the program keeps.
func (p *Plan) Capabilities() uint64 { return p.keep | buildCapabilities }
