package netns

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// ErrClosed is returned by an [Owner] that has been closed.
var ErrClosed = errors.New("netns: closed")

// Owner makes relay network namespaces. Such a namespace has nothing but lo, on which every
// address is local. It belongs to a user namespace in which there is only our own id, so no
// privilege is needed. It lives as long as one of its sockets is open: no process is inside,
// and no descriptor but the socket is kept.
//
// The zero value is ready. The user namespace is made together with the first network. The
// methods may be called from several goroutines.
type Owner struct {
	mu     sync.Mutex
	made   bool
	closed bool
	user   int // the user namespace
	root   int // O_PATH: a tmpfs that no other process sees, for the nodes of unix sockets
}

// Close closes the user namespace. Networks that were made live on. It may be called twice.
func (o *Owner) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.made {
		closeAll([]int{o.user, o.root})
	}
	o.made, o.closed = false, true
	return nil
}

// NewNetwork makes a relay network namespace. In it, it makes a datagram socket, which blocks,
// and one socket of each of the families for flows, see [MakeFlows]. All are close-on-exec and
// unbound. The caller closes them.
func (o *Owner) NewNetwork(family int, flows []int) (socket int, made []int, err error) {
	fds, err := o.makeFirstSockets(family, flows)
	if err != nil {
		return -1, nil, adviseOn(err)
	}
	route, fds := fds[0], fds[1:]
	defer unix.Close(route)
	switch family {
	case unix.AF_INET:
		err = setUpLoopback(route, unix.AF_INET)
	case unix.AF_INET6:
		err = setUpLoopback(route, unix.AF_INET, unix.AF_INET6)
	}
	for i := 0; i < len(flows) && err == nil; i++ {
		err = allowAnyAddress(fds[1+i], flows[i])
	}
	if err != nil {
		closeAll(fds)
		return -1, nil, adviseOn(err)
	}
	return fds[0], fds[1:], nil
}

// makeFirstSockets makes a namespace, in it a socket of rtnetlink(7), and the sockets of
// NewNetwork.
func (o *Owner) makeFirstSockets(family int, flows []int) ([]int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.makeUserNamespace(); err != nil {
		return nil, err
	}
	c, err := newChild()
	if err != nil {
		return nil, err
	}
	defer c.list.Close()
	c.addCall("setns", unix.SYS_SETNS, uintptr(o.user), unix.CLONE_NEWUSER)
	c.addCall("unshare network", unix.SYS_UNSHARE, unix.CLONE_NEWNET)
	c.addSocket(routeKind)
	c.addSocket(spec.Kind{Family: family, Type: unix.SOCK_DGRAM})
	for _, flow := range flows {
		c.addSocket(datagramKind(flow))
	}
	return c.runCalls(0) // the kernel takes its time
}

// setUpLoopback brings lo up, and makes every address of the families local.
func setUpLoopback(route int, families ...int) error {
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(route, unix.SIOCSIFFLAGS, lo); err != nil { // netdevice(7): any socket does
		return os.NewSyscallError("ioctl SIOCSIFFLAGS", err)
	}
	return addLocalRoutes(route, families...)
}

// MakeFlows makes n more datagram sockets of a family where socket is, close-on-exec and
// non-blocking, all or none; those of the internet may have any client's address, ip(7). The
// caller closes them.
func MakeFlows(socket, family, n int) ([]int, error) {
	there, err := namespaceOf(socket)
	if err != nil {
		return nil, err
	}
	defer there.closeFDs()
	return there.makeDatagramSockets(family, n)
}

// BindNode binds socket, of any namespace, to a path in a root that no other process sees. It
// returns an O_PATH descriptor of the node, by which others connect. The caller closes it. The
// name is removed at once: another socket may want it.
func (o *Owner) BindNode(socket int, path string, sockaddr []byte) (node int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.makeUserNamespace(); err != nil {
		return -1, adviseOn(err)
	}
	c, err := newChild()
	if err != nil {
		return -1, err
	}
	defer c.list.Close()
	c.addCall("setns", unix.SYS_SETNS, uintptr(o.user), unix.CLONE_NEWUSER)
	c.addCall("chdir", unix.SYS_FCHDIR, uintptr(o.root))
	c.addCall("chroot", unix.SYS_CHROOT, c.list.AddText("."))
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			c.addCall("mkdir", unix.SYS_MKDIRAT, vfork.WorkingDirectory, c.list.AddText(path[:i]), 0o700).IgnoreErrors(unix.EEXIST)
		}
	}
	name := c.list.AddText(path)
	c.addCall("unlink", unix.SYS_UNLINKAT, vfork.WorkingDirectory, name, 0).IgnoreErrors(unix.ENOENT) // of a time when no descriptor was left
	c.addCall("bind", unix.SYS_BIND, uintptr(socket), c.list.AddBytes(sockaddr), uintptr(len(sockaddr)))
	c.addOpenFile(path, unix.O_PATH|unix.O_NOFOLLOW)
	c.addCall("unlink", unix.SYS_UNLINKAT, vfork.WorkingDirectory, name, 0)
	fds, err := c.runCalls(unix.CLONE_VFORK)
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

// makeUserNamespace makes the user namespace if there is none; with o.mu. The child in it opens
// the files of its ids. We write them after the child has ended.
func (o *Owner) makeUserNamespace() error {
	switch {
	case o.closed:
		return ErrClosed
	case o.made:
		return nil
	}
	c, err := newChild()
	if err != nil {
		return err
	}
	defer c.list.Close()
	ids := []struct{ path, text string }{
		{"/proc/self/uid_map", fmt.Sprintf("%d %[1]d 1\n", os.Geteuid())},
		{"/proc/self/setgroups", "deny"}, // before the groups, user_namespaces(7)
		{"/proc/self/gid_map", fmt.Sprintf("%d %[1]d 1\n", os.Getegid())},
	}
	for _, file := range ids {
		c.addOpenFile(file.path, unix.O_WRONLY)
	}
	c.addOpenFile("/proc/self/ns/user", unix.O_RDONLY)
	// Its mounts go nowhere else, mount_namespaces(7), and with it; what is open stays.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	proc, tmpfs := c.list.AddText("/proc"), c.list.AddText("tmpfs")
	c.addCall("mount tmpfs", unix.SYS_MOUNT, tmpfs, proc, tmpfs, flags, c.list.AddText("size=1M,mode=0700"))
	c.addOpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY)
	fds, err := c.runCalls(unix.CLONE_NEWUSER | unix.CLONE_NEWNS)
	if err != nil {
		return err
	}
	defer closeAll(fds[:len(ids)])
	for i, file := range ids {
		if _, err := unix.Write(fds[i], []byte(file.text)); err != nil {
			closeAll(fds[len(ids):])
			return os.NewSyscallError("write "+file.path, err)
		}
	}
	o.user, o.root, o.made = fds[len(ids)], fds[len(ids)+1], true
	return nil
}

// adviseOn adds what mostly is the reason of an errno. AppArmor lets a process make a user
// namespace, and then do nothing in it.
func adviseOn(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: user namespaces are refused here (`activator doctor` says more)", err)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("%w: namespaces are used up or turned off: sysctl user.max_user_namespaces, user.max_net_namespaces", err)
	}
	return err
}
