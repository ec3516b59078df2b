package usernotif

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
	"activator/internal/spec"
)

// pathCall says which arguments of a call are what, counted from 1; 0: none is.
type pathCall struct {
	folder, path int
	flags        int         // of open(2)
	mode         int         // of access(2)
	want         spec.Access // whatever the arguments are
	uids, gids   []int
	groups       bool // it sets those of the program
}

// pathCalls are the calls that name a path or an id.
var pathCalls = map[string]pathCall{
	"open": {path: 1, flags: 2}, "openat": {folder: 1, path: 2, flags: 3}, "creat": {path: 1, want: spec.Write | spec.Make}, "truncate": {path: 1, want: spec.Write},
	"stat": {path: 1}, "lstat": {path: 1}, "newfstatat": {folder: 1, path: 2}, "statx": {folder: 1, path: 2}, "statfs": {path: 1}, "chdir": {path: 1},
	"access": {path: 1, mode: 2}, "faccessat": {folder: 1, path: 2, mode: 3}, "faccessat2": {folder: 1, path: 2, mode: 3},
	"mkdir": {path: 1, want: spec.Make}, "mkdirat": {folder: 1, path: 2, want: spec.Make}, "mknod": {path: 1, want: spec.Make}, "mknodat": {folder: 1, path: 2, want: spec.Make},
	"chown": {path: 1, uids: []int{2}, gids: []int{3}}, "lchown": {path: 1, uids: []int{2}, gids: []int{3}},
	"fchown": {uids: []int{2}, gids: []int{3}}, "fchownat": {folder: 1, path: 2, uids: []int{3}, gids: []int{4}},
	"setuid": {uids: []int{1}}, "setreuid": {uids: []int{1, 2}}, "setresuid": {uids: []int{1, 2, 3}},
	"setgid": {gids: []int{1}}, "setregid": {gids: []int{1, 2}}, "setresgid": {gids: []int{1, 2, 3}},
	"setgroups": {groups: true},
}

// mostFound bounds what is told of one program's paths and ids.
const mostFound = 2000

// lookAtPath tells of a path that the program is about to miss, and of an id that it lacks. The kernel then carries the
// call out and decides: what is told here is what it would say now.
func (s *Supervisor) lookAtPath(n notification, c pathCall) {
	for _, number := range c.uids {
		s.lookAtID(n, "user", "uid_map", n.Args[number-1])
	}
	for _, number := range c.gids {
		s.lookAtID(n, "group", "gid_map", n.Args[number-1])
	}
	if c.groups && !maySetGroups(int(n.PID)) {
		s.tell(n, "", "was refused setgroups(2) (EPERM): have it stay who it is, by its own configuration, or give it the user that it wants to be by user = \"NAME\" below [service]")
	}
	if c.path == 0 {
		return
	}
	at, ok := copyPath(n, c)
	if ok {
		s.lookAtName(n, at, c.wants(n.Args))
	}
}

// lookAtName tells of a path that the program does not get at.
func (s *Supervisor) lookAtName(n notification, at string, want spec.Access) {
	if strings.HasPrefix(at, "/proc/") || strings.HasPrefix(at, "/dev/") {
		return
	}
	f := spec.Finding{Path: at, Want: want}
	var there bool
	if there, f.Errno = lookUp(int(n.PID), at, f.Want); f.Errno != 0 || !there {
		s.note(n, f)
	}
}

// note tells of a path or an id, once.
func (s *Supervisor) note(n notification, f spec.Finding) {
	if s.policy.Tell != nil && !s.found[f] && len(s.found) < mostFound && s.isValid(n.ID) {
		s.found[f] = true
		s.policy.Tell(f)
	}
}

// lookAtID tells of an id that the program's user namespace does not have; -1 is none.
func (s *Supervisor) lookAtID(n notification, kind, file string, id uint64) {
	if uint32(id) == ^uint32(0) {
		return
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", n.PID, file))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		first, err := strconv.ParseUint(fields[0], 10, 32)
		if err != nil || len(fields) != 3 {
			return
		}
		if count, err := strconv.ParseUint(fields[2], 10, 32); err != nil || uint64(uint32(id))-first < count {
			return
		}
	}
	s.note(n, spec.Finding{ID: fmt.Sprintf("%s %d", kind, uint32(id)), Errno: unix.EINVAL, Text: explainID(kind, strconv.FormatUint(uint64(uint32(id)), 10))})
}

// explainID says what the log is told of an id that a program lacks.
func explainID(kind, id string) string {
	name, cure := id, ""
	if u, err := user.LookupId(id); kind == "user" && err == nil {
		name = u.Username
	}
	if g, err := user.LookupGroupId(id); kind == "group" && err == nil {
		name = g.Name
	}
	switch {
	case os.Geteuid() != 0 || kind == "user" && id == "0": // only root gives it another user, and root is more than it should be
	case kind == "user":
		cure = fmt.Sprintf(", or write user = %q below [service]", name)
	default:
		cure = ", or give it the user whose group that is, by user = \"NAME\" below [service]"
	}
	return fmt.Sprintf("wants to be %s %s, or to give files to it (EINVAL), and inside there is one %s only: have it stay what it is, by its own configuration%s", kind, name, kind, cure)
}

// maySetGroups reports whether the kernel lets a thread set its groups, setgroups(2) and user_namespaces(7).
func maySetGroups(thread int) bool {
	status, err := proc.ReadStatus(thread)
	has, bad := strconv.ParseUint(status["CapEff"], 16, 64)
	if err != nil || bad != nil {
		return true
	}
	setting, _ := os.ReadFile(fmt.Sprintf("/proc/%d/setgroups", thread))
	return has>>unix.CAP_SETGID&1 != 0 && strings.TrimSpace(string(setting)) != "deny"
}

// wants is what the call wants of the path.
func (c pathCall) wants(args [6]uint64) spec.Access {
	want := c.want
	if c.mode > 0 {
		mode := args[c.mode-1]
		want |= spec.Access(mode >> 2 & 1) // R_OK
		if mode&unix.W_OK != 0 {
			want |= spec.Write
		}
	}
	if c.flags > 0 {
		flags := args[c.flags-1]
		switch {
		case flags&unix.O_PATH != 0:
		case flags&unix.O_ACCMODE == unix.O_RDONLY:
			want |= spec.Read
		case flags&unix.O_ACCMODE == unix.O_WRONLY:
			want |= spec.Write
		default:
			want |= spec.Read | spec.Write
		}
		if flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
			want |= spec.Make
		}
	}
	return want
}

// copyPath is the path that a call names, absolute; false: it names none, or cannot.
func copyPath(n notification, c pathCall) (string, bool) {
	text, ok := copyText(n.PID, n.Args[c.path-1])
	if !ok {
		return "", false
	}
	return makeAbsolute(n, c, text)
}

// makeAbsolute is the path that a call names by text.
func makeAbsolute(n notification, c pathCall, text string) (string, bool) {
	if text == "" {
		return "", false
	}
	if text[0] != '/' {
		above := workingDirectory(n.PID)
		if c.folder > 0 && int32(n.Args[c.folder-1]) != unix.AT_FDCWD {
			above, _ = os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", n.PID, int32(n.Args[c.folder-1])))
		}
		if !path.IsAbs(above) {
			return "", false
		}
		text = path.Join(above, text)
	}
	return path.Clean(text), true
}

// copyText copies a string out of the calling thread's memory, up to the end of each page: the next one may not be there.
func copyText(thread uint32, at uint64) (string, bool) {
	var text []byte
	for size := uint64(os.Getpagesize()); len(text) < unix.PathMax; {
		part := make([]byte, size-at%size)
		local := []unix.Iovec{{Base: &part[0]}}
		local[0].SetLen(len(part))
		n, err := unix.ProcessVMReadv(int(thread), local, []unix.RemoteIovec{{Base: uintptr(at), Len: len(part)}}, 0)
		if err != nil {
			return "", false
		}
		if end := bytes.IndexByte(part[:n], 0); end >= 0 {
			return string(append(text, part[:end]...)), true
		}
		text, at = append(text, part[:n]...), at+uint64(n)
	}
	return "", false
}

// lookUp says why a thread would not get at a path, in its own root and with its ids; 0: it would, or nobody knows. What is
// not there it then makes.
func lookUp(thread int, at string, want spec.Access) (there bool, errno syscall.Errno) {
	ids, err := behalf.IDsOf(thread)
	if err != nil {
		return true, 0
	}
	root, err := openRootOf(uint32(thread))
	if err != nil {
		return true, 0
	}
	defer func() { _ = unix.Close(root) }()
	there = true
	err = ids.Do(func() error {
		err := tryAccess(root, at, want)
		if err == unix.ENOENT && want&spec.Make != 0 { // in its folder, then
			there, err = false, tryAccess(root, path.Dir(at), spec.Write)
		}
		return err
	})
	return there, errnoOf(err)
}

// openRootOf opens the root of a thread. The caller closes it.
func openRootOf(thread uint32) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/%d/root", thread), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func tryAccess(root int, at string, want spec.Access) error {
	file, err := fd.OpenInRoot(root, at, unix.O_PATH)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(file) }()
	mode := uint32(0)
	if want&spec.Read != 0 {
		mode |= unix.R_OK
	}
	if want&spec.Write != 0 {
		mode |= unix.W_OK
	}
	if mode == 0 {
		return nil
	}
	return unix.Faccessat2(file, "", mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
}
