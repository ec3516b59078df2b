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

	"activator/internal/process/program"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// identity is the user that a service runs as.
type identity struct {
	uid, gid   int
	groups     []int  // supplementary
	name, home string // of the service where no account has the id: inside, passwd(5) says the same
	change     bool   // it is not ours: needs root
	asRoot     bool   // 0 inside is ourselves outside, who are not root

	seenUsers, seenGroups []int // others that are mapped; it has no right over them
}

// hostIDs is the id outside that the id inside stands for.
func (id identity) hostIDs() (uid, gid int) {
	if id.asRoot {
		return os.Geteuid(), os.Getegid()
	}
	return id.uid, id.gid
}

// findIdentity returns the user that the service runs as, and the others that it sees.
func findIdentity(s *spec.Process) (identity, error) {
	id, err := findOwnIdentity(s)
	if err == nil {
		id.seenUsers, err = findSeen("users", s.Sandbox.Users, []int{id.uid}, findUser, sandbox.MapsUser)
	}
	if err == nil {
		id.seenGroups, err = findSeen("groups", s.Sandbox.Groups, append([]int{id.gid}, id.groups...), findGroup, sandbox.MapsGroup)
	}
	return id, err
}

// mostSeen bounds them: the kernel takes less than a page of a map, user_namespaces(7).
const mostSeen = 150

// findSeen looks up others whom the service sees, without its own ids.
func findSeen(key string, names []string, own []int, find func(name string) (id int, known bool), maps func(id int) bool) (ids []int, err error) {
	for _, name := range names {
		id, known := find(name)
		switch {
		case os.Geteuid() != 0:
			return nil, &StepError{Step: key, Path: name, Errno: syscall.EPERM, Reason: "only root has others seen in a sandbox",
				Cure: "run the activator as root; an ordinary user may map subordinate ids, subuid(5), but those are nobody's on the host: what is " + name + "'s would still be seen as nobody's"}
		case !known:
			return nil, &StepError{Step: key, Path: name, Reason: "no such name", Cure: "create it, or give a number"}
		case !maps(id):
			return nil, &StepError{Step: key, Path: name, Errno: syscall.EINVAL,
				Cure: "this id is not among those of the user namespace we are in: give the container more of them"}
		case len(ids) == mostSeen:
			return nil, &StepError{Step: key, Path: name, Errno: syscall.E2BIG, Cure: "these are too many"}
		}
		if !slices.Contains(own, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// findOwners looks, in the sandbox of a child that is not the program yet, where it may give files to others.
func (prep *preparation) findOwners(pid int) (spec.Owners, error) {
	owners := spec.Owners{UIDs: prep.id.seenUsers, GIDs: prep.id.seenGroups}
	for _, path := range prep.owned {
		folder, err := program.Root{Path: fmt.Sprintf("/proc/%d/root", pid)}.OpenFile(path, unix.O_PATH)
		if err != nil {
			return owners, err
		}
		var stat unix.Statx_t
		err = unix.Statx(fdOf(folder, -1), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &stat)
		_ = folder.Close()
		if err != nil {
			return owners, os.NewSyscallError("statx", err)
		}
		owners.Mounts = append(owners.Mounts, stat.Mnt_id)
	}
	return owners, nil
}

// findUser is the id of a user by name or number.
func findUser(name string) (id int, known bool) {
	u, err := user.Lookup(name)
	if err != nil {
		return parseID(name)
	}
	return parseID(u.Uid)
}

// findGroup is the same of a group.
func findGroup(name string) (id int, known bool) {
	g, err := user.LookupGroup(name)
	if err != nil {
		return parseID(name)
	}
	return parseID(g.Gid)
}

func parseID(text string) (id int, ok bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}

// findOwnIdentity returns the user that the service runs as: of root the one that it names or an
// id of its own, else our own.
func findOwnIdentity(s *spec.Process) (identity, error) {
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
	id := identity{uid: uid, gid: gid, name: s.Name, home: "/"}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
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
	id := identity{name: s.Name, home: "/", change: true}
	if err != nil {
		// A number needs no entry in passwd(5), and is called as the service.
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

// inside is what the program finds of itself.
func (id identity) inside(s *spec.Process, handed bool) sandbox.Inside {
	in := sandbox.Inside{Name: id.name, UID: id.uid, GID: id.gid, Home: id.home, Handed: handed}
	if s.Syslog {
		in.Links = append(in.Links, sandbox.Link{Path: SyslogPath, To: syslogPath})
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
	gid, known := findGroup(s.Group)
	if !known {
		return &StepError{Step: "group", Path: s.Group, Reason: "no such group", Cure: "create it, or give a number"}
	}
	if !id.change && gid != id.gid {
		return &StepError{Step: "group", Path: s.Group, Errno: syscall.EPERM,
			Reason: "only root starts services as another group", Cure: "run the activator as root"}
	}
	id.gid = gid
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
	id, err := findIdentity(&s)
	if err != nil || s.Bare || len(s.Argv) == 0 {
		return open
	}
	if uid, _ := id.hostIDs(); uid == 0 {
		open = append(open, "its user is root, whom the limit of processes does not bind (setrlimit(2), RLIMIT_NPROC)")
	}
	if slices.Contains(id.seenUsers, 0) || slices.Contains(id.seenGroups, 0) {
		open = append(open, "users or groups has root: what the service gives to root, in its own directories, is root's on the host")
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
	setgroups := "deny"
	if id.change {
		setgroups = "allow"
	}
	for _, file := range []struct{ name, text string }{
		{"uid_map", mapLines(id.uid, uid, id.seenUsers)},
		{"setgroups", setgroups},
		{"gid_map", mapLines(id.gid, gid, slices.Concat(id.groups, id.seenGroups))},
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

// mapLines maps own to what it is outside, and others to themselves.
func mapLines(own, outside int, others []int) string {
	text := fmt.Sprintf("%d %d 1\n", own, outside)
	for _, id := range others {
		if id != own {
			text += fmt.Sprintf("%d %d 1\n", id, id)
		}
	}
	return text
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
