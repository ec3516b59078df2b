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
)

// notifySocket is our end of NOTIFY_SOCKET.
type notifySocket struct {
	file   *os.File
	path   string   // on the host; "" when the child binds it inside
	folder string   // private, removed with it
	node   *os.File // O_PATH, of a sandbox with supervision; else nil
}

// newNotifySocket makes the socket services report to. A sandbox's child binds
// it to a name inside: the socket itself stays ours, and no path appears on the
// host. Without a sandbox it gets a folder that only the service's user can enter.
func newNotifySocket(bare bool, id identity) (*notifySocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, sandbox.OpenError("notify socket", "", err)
	}
	n := &notifySocket{file: os.NewFile(uintptr(fd), "notify")}
	// Before bind: the first message already has its sender.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		n.closeSocket()
		return nil, &StepError{Step: "notify", Errno: errnoOf(err)}
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
		return nil, &StepError{Step: "notify", Path: n.path, Errno: errnoOf(err)}
	}
	return n, nil
}

func (n *notifySocket) closeSocket() {
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
func (n *notifySocket) openNode(pid int) (err error) {
	if n.path != "" {
		n.node, err = program.Root{Path: "/"}.OpenFile(n.path, unix.O_PATH)
		return err
	}
	n.node, err = program.Root{Path: fmt.Sprintf("/proc/%d/root", pid)}.OpenFile(NotifyPath, unix.O_PATH)
	return err
}

func (n *notifySocket) removeFolder() {
	if n.folder != "" {
		_ = os.RemoveAll(n.folder)
	}
}

// watchdogEnviron returns the entries that ask a process to tell, at least once in every, that it is
// alive; pid is its number as it sees it itself, sd_watchdog_enabled(3).
func watchdogEnviron(every time.Duration, pid int) []string {
	return []string{"WATCHDOG_USEC=" + strconv.FormatInt(every.Microseconds(), 10), "WATCHDOG_PID=" + strconv.Itoa(pid)}
}
