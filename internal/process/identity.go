package process

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
	"activator/internal/spec"
)

// identity is the user that a service runs as.
type identity struct {
	uid, gid   int
	groups     []int // supplementary
	name, home string
	change     bool // it is not ours: needs root
	asRoot     bool // 0 inside is ourselves outside, who are not root
}

// hostIDs is the id outside that the id inside stands for.
func (id identity) hostIDs() (uid, gid int) {
	if id.asRoot {
		return os.Geteuid(), os.Getegid()
	}
	return id.uid, id.gid
}

// findIdentity returns the user that the service runs as: of root the one that it names or an
// id of its own, else our own.
func findIdentity(s *spec.Process) (identity, error) {
	uid, gid := os.Geteuid(), os.Getegid()
	own := s.ID
	if own == 0 {
		own = sandbox.ServiceID(s.Name, nil)
	}
	switch {
	case s.User != "":
		return lookUpUser(s, uid)
	case uid == 0 && !s.Bare && sandbox.MapsID(own):
		id := identity{uid: own, gid: own, name: s.Name, home: "/", change: true}
		return id, setGroup(s, &id)
	}
	id := identity{uid: uid, gid: gid, name: strconv.Itoa(uid), home: "/"}
	if u, err := user.LookupId(id.name); err == nil {
		id.name, id.home = u.Username, u.HomeDir
	}
	return id, setGroup(s, &id)
}

// lookUpUser looks up spec.User and the groups it is in.
func lookUpUser(s *spec.Process, own int) (identity, error) {
	u, err := user.Lookup(s.User)
	if err != nil {
		u, err = user.LookupId(s.User)
	}
	id := identity{name: s.User, home: "/", change: true}
	if err != nil {
		// A number needs no entry in passwd(5).
		number, bad := strconv.ParseUint(s.User, 10, 31)
		if bad != nil {
			return id, &StepError{Step: "user", Path: s.User, Reason: "no such user", Cure: "create it, or give a number"}
		}
		id.uid, id.gid = int(number), int(number)
	} else {
		id.uid, _ = strconv.Atoi(u.Uid)
		id.gid, _ = strconv.Atoi(u.Gid)
		id.name, id.home = u.Username, u.HomeDir
		id.groups = slices.DeleteFunc(groupsOf(u, id.gid), func(gid int) bool { return !sandbox.MapsGroup(gid) })
	}
	if own != 0 && id.uid == 0 && !s.Bare {
		// Some programs want to be root whatever they may do. Inside they can be
		// told so: it gives them nothing that the user has not.
		id.change, id.groups, id.asRoot = false, nil, true
		return id, setGroup(s, &id)
	}
	if own != 0 && id.uid != own {
		return id, &StepError{Step: "user", Path: s.User, Errno: syscall.EPERM,
			Reason: "only root starts services as another user", Cure: "run the activator as root, or as this user and leave user away"}
	}
	if id.uid == own {
		// Where our namespace lets nobody set groups, we keep ours.
		id.change, id.groups = own == 0 && !sandbox.DeniesGroups(), nil
	}
	return id, setGroup(s, &id)
}

// inside is what the program finds of itself. A user without a name is called as its service.
func (id identity) inside(s *spec.Process, handed bool) sandbox.Inside {
	in := sandbox.Inside{Name: id.name, UID: id.uid, GID: id.gid, Home: id.home, Handed: handed}
	if s.Syslog {
		in.Links = append(in.Links, sandbox.Link{Path: SyslogPath, To: syslogPath})
	}
	if _, err := strconv.Atoi(in.Name); err == nil {
		in.Name = s.Name
	}
	return in
}

func groupsOf(u *user.User, primary int) []int {
	texts, err := u.GroupIds()
	if err != nil {
		return nil
	}
	var groups []int
	for _, text := range texts {
		if gid, err := strconv.Atoi(text); err == nil && gid != primary {
			groups = append(groups, gid)
		}
	}
	return groups
}

func setGroup(s *spec.Process, id *identity) error {
	if s.Group == "" {
		return nil
	}
	g, err := user.LookupGroup(s.Group)
	if err != nil {
		g, err = user.LookupGroupId(s.Group)
	}
	number := s.Group
	if err == nil {
		number = g.Gid
	}
	gid, bad := strconv.ParseUint(number, 10, 31)
	if bad != nil {
		return &StepError{Step: "group", Path: s.Group, Reason: "no such group", Cure: "create it, or give a number"}
	}
	if !id.change && int(gid) != id.gid {
		return &StepError{Step: "group", Path: s.Group, Errno: syscall.EPERM,
			Reason: "only root starts services as another group", Cure: "run the activator as root"}
	}
	id.gid = int(gid)
	return nil
}

// LacksID says why a service for which root would have a user id of its own runs as our own user;
// "" where it has one, or is to have none.
func LacksID(s spec.Process) string {
	own := s.ID
	if own == 0 {
		own = sandbox.ServiceID(s.Name, nil)
	}
	if os.Geteuid() != 0 || s.User != "" || s.Bare || len(s.Argv) == 0 || sandbox.MapsID(own) {
		return ""
	}
	return fmt.Sprintf("the service has the activator's own user and group: id %d is not among those of the user namespace that the activator is in", own)
}

// ListLesser says what the user of a service leaves open that another would not.
func ListLesser(s spec.Process) (open []string) {
	if lack := LacksID(s); lack != "" {
		open = append(open, lack)
	}
	if id, err := findIdentity(&s); err == nil && !s.Bare && len(s.Argv) > 0 {
		if uid, _ := id.hostIDs(); uid == 0 {
			open = append(open, "its user is root, whom the limit of processes does not bind (setrlimit(2), RLIMIT_NPROC)")
		}
	}
	return open
}

// environment is what a program has by default, and nothing else but HOME and USER.
var environment = []string{
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"LANG=C.UTF-8",
}

// withDefaults adds the defaults that a program without a sandbox of ours brings itself.
func withDefaults(process *spec.Process) []string {
	if process.Bare {
		return process.Env
	}
	return appendMissing(process.Env, environment...)
}

// completeEnv adds HOME and USER, where the specification has none.
func (id identity) completeEnv(env []string) []string {
	return appendMissing(env, "HOME="+id.home, "USER="+id.name)
}

// appendMissing is env, and those of more whose names it has not: of two entries with one
// name getenv(3) finds the first.
func appendMissing(env []string, more ...string) []string {
	env = slices.Clone(env)
	for _, entry := range more {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			env = append(env, entry)
		}
	}
	return env
}

// mapInto gives the user namespace of a child the ids, user_namespaces(7): the order is
// the kernel's, which wants to know of setgroups(2) before it allows groups.
func (id identity) mapInto(pid int) error {
	uid, gid := id.hostIDs()
	groups := []string{fmt.Sprintf("%d %d 1\n", id.gid, gid)}
	for _, gid := range id.groups {
		if gid != id.gid {
			groups = append(groups, fmt.Sprintf("%d %d 1\n", gid, gid))
		}
	}
	setgroups := "deny"
	if id.change {
		setgroups = "allow"
	}
	for _, file := range []struct{ name, text string }{
		{"uid_map", fmt.Sprintf("%d %d 1\n", id.uid, uid)},
		{"setgroups", setgroups},
		{"gid_map", strings.Join(groups, "")},
	} {
		path := fmt.Sprintf("/proc/%d/%s", pid, file.name)
		err := writeOnce(path, file.text)
		switch errnoOf(err) {
		case unix.EMFILE, unix.ENFILE, unix.ENOENT: // it is not about the namespace
			return sandbox.OpenError("open", path, err)
		}
		if err != nil {
			return sandbox.CloneError(err)
		}
	}
	return nil
}

// writeOnce is one write(2): these files take no second one.
func writeOnce(name, text string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Write(fd, []byte(text))
	return os.NewSyscallError("write", err)
}

// DirectoryOwner says whose the service's own directories are: a user id, or the user that the service has for itself.
func DirectoryOwner(s spec.Process) string {
	id, err := findIdentity(&s)
	if err == nil && id.change && s.User == "" {
		return "a user of its own, " + s.Name
	}
	uid, _ := id.hostIDs()
	return "uid " + strconv.Itoa(uid)
}

// ChangesUser reports whether the service has another user than ours, which gets its directories.
func ChangesUser(s spec.Process) bool {
	id, err := findIdentity(&s)
	return err == nil && id.change && id.uid != os.Geteuid()
}
