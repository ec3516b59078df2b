package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
)

// Program is the inside of a process: its network, and the files that it sees. It is
// one goroutine's, with all its targets.
type Program struct {
	namespace
	root  int // its root folder
	diag  int // netlink socket of the network, sock_diag(7)
	local bool
	ids   behalf.IDs    // of the process
	place *behalf.Place // where it is; nil: not identified, or closed
	alone bool          // the network is its own: a socket that has a name there belongs to the process
}

// OpenProgram opens the inside of a process that we started, and that has been given its
// root. The pid must not have been reaped.
func OpenProgram(pid int) (*Program, error) {
	p := &Program{namespace: namespace{-1, -1}, root: -1, diag: -1}
	for _, o := range []struct {
		name  string
		flags int
		fd    *int
	}{{"ns/user", unix.O_RDONLY, &p.user}, {"ns/net", unix.O_RDONLY, &p.network}, {"root", unix.O_PATH | unix.O_DIRECTORY, &p.root}} {
		path := fmt.Sprintf("/proc/%d/%s", pid, o.name)
		fd, err := unix.Open(path, o.flags|unix.O_CLOEXEC, 0)
		if err != nil {
			p.Close()
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		*o.fd = fd
	}
	fds, err := p.makeSockets(diagKind)
	if err != nil {
		p.Close()
		return nil, err
	}
	p.diag = fds[0]
	return p, nil
}

// ReadIdentity finds out which process it is: targets that are unix sockets need that. The pid
// must not have been reaped.
func (p *Program) ReadIdentity(pid int) (err error) {
	if p.ids, err = behalf.IDsOf(pid); err != nil {
		return err
	}
	if p.place, err = behalf.OpenPlace(pid); err != nil {
		return err
	}
	owner, err := unix.IoctlRetInt(p.network, unix.NS_GET_USERNS)
	if err == unix.EPERM {
		return nil // its owner is not one of our user namespaces
	}
	if err != nil {
		return os.NewSyscallError("ioctl NS_GET_USERNS", err)
	}
	defer unix.Close(owner)
	var of, its unix.Stat_t
	if err := errors.Join(unix.Fstat(owner, &of), unix.Fstat(p.user, &its)); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	p.alone = of.Dev == its.Dev && of.Ino == its.Ino
	return nil
}

// Close closes what OpenProgram opened. Sockets that were made live on. It may be called twice.
func (p *Program) Close() {
	p.namespace.closeFDs()
	for _, fd := range []*int{&p.root, &p.diag} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
	if p.place != nil {
		p.place.Close()
		p.place = nil
	}
}

// makeAddressesLocal makes every address local inside, so that the program's answers to a client's
// address come to the socket that has it.
func (p *Program) makeAddressesLocal() error {
	if p.local {
		return nil
	}
	fds, err := p.makeSockets(routeKind)
	if err != nil {
		return err
	}
	defer closeAll(fds)
	if err := addLocalRoutes(fds[0], unix.AF_INET, unix.AF_INET6); err != nil {
		return err
	}
	p.local = true
	return nil
}

// AllowLowPorts lets the program bind ports below 1024, as a server of root's could. In a
// network of its own nothing else has them. ip(7), ip_unprivileged_port_start. It is called
// before the program runs.
func (p *Program) AllowLowPorts() error {
	return p.writeSysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0") // of IPv6 too
}

// UseReno makes reno the network's congestion control. Loopback is never congested, and an
// algorithm that paces, such as BBR, halves the throughput. Every kernel has reno, and every
// user may choose it, tcp(7). It is called before the program runs: an accepted socket has
// the algorithm that its listener began with.
func (p *Program) UseReno() error {
	return p.writeSysctl("/proc/sys/net/ipv4/tcp_congestion_control", "reno")
}

// writeSysctl writes a file of /proc/sys/net. The file belongs to the network of the process
// that opens it.
func (p *Program) writeSysctl(path, value string) error {
	fds, err := p.openInside(func(c *child) { c.addOpenFile(path, unix.O_WRONLY) })
	if err != nil {
		return err
	}
	defer closeAll(fds)
	if _, err := unix.Write(fds[0], []byte(value)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

const loopback = 1 // ifindex of lo, in every namespace

// localRoute is the body of a message of rtnetlink(7): struct rtmsg, and one attribute, RTA_OIF.
func localRoute(family int) []byte {
	b := []byte{byte(family), 0, 0, 0, // both prefixes of length 0, no TOS
		unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL}
	b = binary.NativeEndian.AppendUint32(b, 0) // flags
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, unix.RTA_OIF)
	return binary.NativeEndian.AppendUint32(b, loopback)
}
