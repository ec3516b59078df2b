package fdpass

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotActivated says that LISTEN_FDS is not set: this process was not
// started by socket activation.
var ErrNotActivated = errors.New(listenFDs + " is not set: this process was not started by socket activation")

// Error says what is wrong with a variable of the protocol.
type Error struct {
	Variable string
	Value    string
	Problem  string // what is wrong and, where the user can cure it, how
}

func (e *Error) Error() string {
	return e.Variable + "=" + quoteHostile(e.Value) + " " + e.Problem
}

// Inherited is a descriptor this process was started with. The receiver
// closes File.
type Inherited struct {
	Name string // from LISTEN_FDNAMES; "unknown" without it, as in systemd
	File *os.File
}

// ReceiveInherited returns the descriptors this process was passed, in their order, and
// removes the variables of the protocol from the environment, also on error, so
// that no child takes them for its own. The descriptors get FD_CLOEXEC. Their
// status flags are shared with the passer and stay: File is pollable only where
// O_NONBLOCK was set.
//
// It is ErrNotActivated where nothing was passed, else an *Error. On error no
// descriptor is touched.
func ReceiveInherited() ([]Inherited, error) {
	claimed, err := parseEnviron(takeEnviron(), os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := claimed.checkPidfd(ownPidfdID()); err != nil {
		return nil, err
	}
	for i := range claimed.count {
		if err := checkPassed(firstFD+i, claimed.count); err != nil {
			return nil, err
		}
	}
	inherited := make([]Inherited, claimed.count)
	for i := range inherited {
		fd, name := firstFD+i, claimed.nameOf(i)
		unix.CloseOnExec(fd)
		inherited[i] = Inherited{Name: name, File: os.NewFile(uintptr(fd), fmt.Sprintf("fd %d (%s)", fd, name))}
	}
	return inherited, nil
}

// takeEnviron moves every variable of the protocol out of the environment.
func takeEnviron() map[string]string {
	taken := make(map[string]string)
	for _, name := range []string{listenFDs, listenPID, listenNames, listenPidfd} {
		if value, ok := os.LookupEnv(name); ok {
			taken[name] = value
			_ = os.Unsetenv(name) // errs only on names that cannot be set either
		}
	}
	return taken
}

// claim is what the environment says was passed.
type claim struct {
	count   int
	names   []string // one per descriptor; nil: LISTEN_FDNAMES was not set
	pidfdID uint64   // inode number of our own pidfd; 0: LISTEN_PIDFDID was not set
}

func (c claim) nameOf(i int) string {
	if c.names == nil {
		return "unknown"
	}
	return c.names[i]
}

// maxFDs is fs.nr_open's default: no process holds more descriptors.
const maxFDs = 1 << 20

func parseEnviron(env map[string]string, pid int) (claim, error) {
	fds, ok := env[listenFDs]
	if !ok {
		return claim{}, ErrNotActivated
	}
	if err := parsePID(env, fds, pid); err != nil {
		return claim{}, err
	}
	var c claim
	var err error
	if c.count, err = parseCount(fds); err != nil {
		return claim{}, err
	}
	if c.names, err = parseNames(env, c.count); err != nil {
		return claim{}, err
	}
	if c.pidfdID, err = parsePidfdID(env); err != nil {
		return claim{}, err
	}
	return c, nil
}

func parsePID(env map[string]string, fds string, pid int) error {
	value, ok := env[listenPID]
	if !ok {
		return &Error{listenFDs, fds, "without " + listenPID + ": nobody can tell whom the descriptors are meant for; " +
			"whoever starts this program must set both"}
	}
	meant, err := parseNumber(value)
	if err != nil || meant == 0 {
		return &Error{listenPID, value, "is not a process id"}
	}
	if meant != uint64(pid) {
		return &Error{listenPID, value, fmt.Sprintf("is not this process (%d): the sockets are meant for another one; "+
			"a script in between must start this program with exec", pid)}
	}
	return nil
}

func parseCount(value string) (int, error) {
	n, err := parseNumber(value)
	switch {
	case strings.HasPrefix(value, "-"):
		return 0, &Error{listenFDs, value, "is not a count of descriptors: negative"}
	case errors.Is(err, strconv.ErrRange) || n > maxFDs:
		return 0, &Error{listenFDs, value, "is more descriptors than a process can hold"}
	case err != nil:
		return 0, &Error{listenFDs, value, "is not a number"}
	case n == 0:
		return 0, &Error{listenFDs, value, "passes no descriptor"}
	}
	return int(n), nil
}

func parseNames(env map[string]string, count int) ([]string, error) {
	value, ok := env[listenNames]
	if !ok {
		return nil, nil
	}
	if n := strings.Count(value, ":") + 1; n != count {
		return nil, &Error{listenNames, value, fmt.Sprintf("has %d names for %s=%d descriptors", n, listenFDs, count)}
	}
	names := strings.Split(value, ":")
	for _, name := range names {
		if err := checkName(name); err != nil {
			return nil, &Error{listenNames, value, "is malformed: " + err.Error()}
		}
	}
	return names, nil
}

func parsePidfdID(env map[string]string) (uint64, error) {
	value, ok := env[listenPidfd]
	if !ok {
		return 0, nil
	}
	id, err := parseNumber(value)
	if err != nil || id == 0 {
		return 0, &Error{listenPidfd, value, "is not an inode number"}
	}
	return id, nil
}

// parseNumber takes decimal digits only: no sign, no blanks.
func parseNumber(s string) (uint64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 10, 64)
}

// checkPidfd compares the claim with our own pidfd's id, where the kernel has
// one: a pid may have been used again, the id never is.
func (c claim) checkPidfd(own uint64, known bool) error {
	if c.pidfdID == 0 || !known || c.pidfdID == own {
		return nil
	}
	return &Error{listenPidfd, strconv.FormatUint(c.pidfdID, 10),
		fmt.Sprintf("is not this process (%d), although %s is: the variables are those of an ended process with the same pid",
			own, listenPID)}
}

// checkPassed tells a passed descriptor from a closed number, and from one that
// this process itself has opened since: what came through execve has no
// FD_CLOEXEC, all that Go's runtime and packages open has it.
func checkPassed(fd, count int) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err == nil && flags&unix.FD_CLOEXEC == 0 {
		return nil
	}
	return &Error{listenFDs, strconv.Itoa(count), fmt.Sprintf("claims descriptors %d to %d, but %d was not passed: it is closed",
		firstFD, firstFD+count-1, fd)}
}

// ownPidfdID is the inode number of this process's pidfd: unique until reboot
// on pidfs (Linux 6.9), meaningless elsewhere. It is the same before and after
// execve.
func ownPidfdID() (id uint64, ok bool) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return 0, false
	}
	defer func() { _ = unix.Close(fd) }()
	return pidfdID(fd)
}

// quoteHostile keeps a hostile value from the terminal and from filling the log.
func quoteHostile(value string) string {
	const most = 80 // bytes
	cut := value
	if len(cut) > most {
		cut = cut[:most] + "..."
	}
	for i := range len(cut) {
		if cut[i] < ' ' || cut[i] >= 0x7f {
			return strconv.Quote(cut)
		}
	}
	return cut
}
