package process

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/process/program"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// reportSocket is our end of a socket that a program reports to.
type reportSocket struct {
	purpose
	file   *os.File
	path   string   // on the host; "" when the child binds it inside
	folder string   // private, removed with it
	node   *os.File // O_PATH, of a sandbox with supervision; else nil
}

// purpose says what is reported at a socket.
type purpose struct {
	step   string // for errors
	inside string // its path in a sandbox
	cure   string // of a place where it cannot be bound
}

// The purposes: sd_notify(3) and syslog(3).
var (
	forNotify = purpose{"notify", NotifyPath, "notify, watchdog and file_descriptor_store_max need a /run that the service can write to"}
	forSyslog = purpose{"syslog", syslogPath, "syslog = true needs a /run that the service can write to"}
)

// purposesOf lists what a process reports.
func purposesOf(s *spec.Process) (all []purpose) {
	if s.Reports() {
		all = append(all, forNotify)
	}
	if s.Syslog && !s.Bare {
		all = append(all, forSyslog)
	}
	return all
}

// newReportSocket makes a socket that services report to. A sandbox's child binds
// it to a name inside: the socket itself stays ours, and no path appears on the
// host. Without a sandbox it gets a folder that only the service's user can enter.
func newReportSocket(p purpose, bare bool, id identity) (*reportSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, sandbox.OpenError(p.step+" socket", "", err)
	}
	n := &reportSocket{purpose: p, file: os.NewFile(uintptr(fd), p.step)}
	// Before bind: the first message already has its sender.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		n.closeSocket()
		return nil, &StepError{Step: p.step, Errno: errnoOf(err)}
	}
	if !bare {
		return n, nil
	}
	if n.folder, err = os.MkdirTemp("", "activator-notify-"); err == nil {
		n.path = filepath.Join(n.folder, "notify")
		err = unix.Bind(fd, &unix.SockaddrUnix{Name: n.path})
	}
	// The folder last: then it is the service's, and so is what a name in it leads to.
	for _, path := range []string{n.path, n.folder} {
		if err == nil && id.change {
			err = os.Lchown(path, id.uid, id.gid)
		}
	}
	if err != nil {
		n.closeSocket()
		return nil, &StepError{Step: p.step, Path: n.path, Errno: errnoOf(err)}
	}
	return n, nil
}

// takeFile gives our end away; nil: it is gone, or there is none.
func (n *reportSocket) takeFile() *os.File {
	if n == nil {
		return nil
	}
	file := n.file
	n.file = nil
	return file
}

// lendNode lends the node, until closeSocket; nil: there is none.
func (n *reportSocket) lendNode() *os.File {
	if n == nil {
		return nil
	}
	return n.node
}

func (n *reportSocket) closeSocket() {
	if n.file != nil {
		_ = n.file.Close()
	}
	if n.node != nil {
		_ = n.node.Close()
	}
	n.removeFolder()
}

// openNode opens the node of the socket in the sandbox of a child, which has bound it and
// is not the program yet.
func (n *reportSocket) openNode(pid int) (err error) {
	if n.path != "" {
		n.node, err = program.Root{Path: "/"}.OpenFile(n.path, unix.O_PATH)
		return err
	}
	n.node, err = program.Root{Path: fmt.Sprintf("/proc/%d/root", pid)}.OpenFile(n.inside, unix.O_PATH)
	return err
}

func (n *reportSocket) removeFolder() {
	if n.folder != "" {
		_ = os.RemoveAll(n.folder)
	}
}

// watchdogEnviron returns the entries that ask a process to tell, at least once in every, that it is
// alive; pid is its number as it sees it itself, sd_watchdog_enabled(3).
func watchdogEnviron(every time.Duration, pid int) []string {
	return []string{"WATCHDOG_USEC=" + strconv.FormatInt(every.Microseconds(), 10), "WATCHDOG_PID=" + strconv.Itoa(pid)}
}

// reportSockets are those of one process.
type reportSockets struct {
	notify *reportSocket // nil: none
	syslog *reportSocket // nil: none
}

// all lists those that there are.
func (r reportSockets) all() (all []*reportSocket) {
	for _, n := range []*reportSocket{r.notify, r.syslog} {
		if n != nil {
			all = append(all, n)
		}
	}
	return all
}

// openNodes opens the nodes in the sandbox of a child.
func (r reportSockets) openNodes(pid int) error {
	for _, n := range r.all() {
		if err := n.openNode(pid); err != nil {
			return err
		}
	}
	return nil
}

func (r reportSockets) closeAll() {
	for _, n := range r.all() {
		n.closeSocket()
	}
}
