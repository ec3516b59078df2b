package fdpass

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// firstFD is the number of the first passed descriptor, SD_LISTEN_FDS_START.
const firstFD = 3

const (
	listenPrefix = "LISTEN_"
	listenFDs    = "LISTEN_FDS"
	listenPID    = "LISTEN_PID"
	listenNames  = "LISTEN_FDNAMES"
	listenPidfd  = "LISTEN_PIDFDID"
	notifySocket = "NOTIFY_SOCKET"
	watchdogUsec = "WATCHDOG_USEC"
	watchdogPID  = "WATCHDOG_PID"
)

// maxNameLen is in bytes; the limit of sd_listen_fds(3).
const maxNameLen = 255

// MakeEnviron returns the entries that hand len(names) descriptors, 3 and up, to
// the program that a process will execve next: pid is its number as it sees it
// itself, pidfd one of its own, which is lent; -1: none. No names, no entries.
//
// LISTEN_PIDFDID (systemd 259) is there only where the kernel has pidfs (6.9).
func MakeEnviron(names []string, pid, pidfd int) ([]string, error) {
	if len(names) == 0 {
		return nil, nil
	}
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, err
		}
	}
	env := []string{
		listenFDs + "=" + strconv.Itoa(len(names)),
		listenPID + "=" + strconv.Itoa(pid),
		listenNames + "=" + strings.Join(names, ":"),
	}
	if id, ok := pidfdID(pidfd); ok {
		env = append(env, listenPidfd+"="+strconv.FormatUint(id, 10))
	}
	return env, nil
}

// pidfdID is the inode number of a pidfd, on pidfs.
func pidfdID(fd int) (id uint64, ok bool) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.PID_FS_MAGIC || unix.Fstat(fd, &st) != nil {
		return 0, false
	}
	return st.Ino, true
}

// IsName reports whether name can stand in LISTEN_FDNAMES.
func IsName(name string) bool { return checkName(name) == nil }

// checkName says why name cannot stand in LISTEN_FDNAMES: the rule is
// systemd's, up to 255 bytes of printable ASCII without a colon; the empty
// name is allowed.
func checkName(name string) error {
	if len(name) > maxNameLen {
		return fmt.Errorf("socket name %.20q...: %d bytes, more than %d", name, len(name), maxNameLen)
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c == ':':
			return fmt.Errorf("socket name %q: contains a colon, which separates names in %s", name, listenNames)
		case c < ' ' || c >= 0x7f:
			return fmt.Errorf("socket name %q: byte %d is not printable ASCII", name, i)
		}
	}
	return nil
}

// StripEnviron returns env without what another activator or service manager meant
// for us alone: every LISTEN_ variable, NOTIFY_SOCKET, and those of the watchdog. env stays as it is.
func StripEnviron(env []string) []string {
	kept := make([]string, 0, len(env))
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if name == notifySocket || name == watchdogUsec || name == watchdogPID || strings.HasPrefix(name, listenPrefix) {
			continue
		}
		kept = append(kept, entry)
	}
	return kept
}
