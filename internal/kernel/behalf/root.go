package behalf

import (
	"cmp"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/proc"
	"activator/internal/process/vfork"
)

// OpenRoot opens the root of the process. From then on a path is looked up in that root and from
// the process's working directory, and a node is made with its umask. A working directory outside
// of its root is taken for the folder of that name in its root.
func (p *Place) OpenRoot(pid int) error {
	status, err := proc.ReadStatus(pid)
	if err != nil {
		return err
	}
	mask, err := strconv.ParseUint(cmp.Or(status["Umask"], "777"), 8, 12)
	if err != nil {
		return fmt.Errorf("/proc/%d/status: %w", pid, err)
	}
	p.umask = int(mask)
	if p.folder, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil {
		return err
	}
	for _, o := range []struct {
		name  string
		flags int
		fd    *int
	}{{"ns/mnt", unix.O_RDONLY, &p.mounts}, {"root", unix.O_PATH | unix.O_DIRECTORY, &p.root}} {
		if o.fd == &p.mounts && sharesNamespace(pid, "mnt") {
			continue // it is not entered: that would take a privilege over it
		}
		path := fmt.Sprintf("/proc/%d/%s", pid, o.name)
		fd, err := unix.Open(path, o.flags|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		*o.fd = fd
	}
	return nil
}

// sharesNamespace reports whether a process is in our namespace of a kind.
func sharesNamespace(pid int, kind string) bool {
	ours, err := os.Readlink("/proc/self/ns/" + kind)
	theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	return err == nil && err2 == nil && ours == theirs
}

// addRoot adds the calls by which the child sees the files of the place.
func (p *Place) addRoot(list *vfork.CallList, step func(name string)) {
	if p.root < 0 {
		return
	}
	step("setns")
	if p.mounts >= 0 {
		list.Do(unix.SYS_SETNS, uintptr(p.mounts), unix.CLONE_NEWNS)
	}
	step("chroot")
	list.Do(unix.SYS_FCHDIR, uintptr(p.root))
	list.Do(unix.SYS_CHROOT, list.AddText("."))
	list.Do(unix.SYS_CHDIR, list.AddText(p.folder)).IgnoreErrors()
	list.Do(unix.SYS_UMASK, uintptr(p.umask))
}

// Connect is connect(2) of a unix socket to an address that is looked up in the place's
// root, with its ids: the peer sees them. The socket is shared: with one that blocks, Connect
// waits until the socket is shut down or the place ends.
func (p *Place) Connect(fd int, sockaddr []byte) error {
	return p.callWithAddress(unix.SYS_CONNECT, fd, 0, sockaddr)
}

// Bind is bind(2), likewise: the node is the process's, and low ports, ip(7), are those of its own
// network and of no other.
func (p *Place) Bind(fd int, sockaddr []byte) error {
	return p.callWithAddress(unix.SYS_BIND, fd, callTimeout, sockaddr)
}

func (p *Place) callWithAddress(number uintptr, fd int, limit time.Duration, sockaddr []byte) error {
	list, err := vfork.New()
	if err != nil {
		return err
	}
	defer list.Close()
	return p.runInside(list, fd, limit, func() vfork.Call {
		return list.Do(number, uintptr(fd), list.AddBytes(sockaddr), uintptr(len(sockaddr)))
	})
}
