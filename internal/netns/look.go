package netns

import (
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockdiag"
)

// FindSockets looks for the program's listening sockets, and reports whether it listens at the
// target.
func (d *Target) FindSockets() (bool, error) {
	if d.address.Path != "" {
		return d.lookUnix()
	}
	var err error
	d.four, d.six = netip.Addr{}, netip.Addr{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		q := sockdiag.Inet{Family: family, Protocol: unix.IPPROTO_TCP, States: sockdiag.Listening, Port: uint16(d.address.Port)}
		e := q.Each(d.program.diag, d.noteListener)
		if e != nil && !errors.Is(e, unix.ENOENT) && !errors.Is(e, unix.EAFNOSUPPORT) {
			err = e
		}
	}
	return d.four.IsValid() || d.six.IsValid(), err
}

// noteListener takes in a listening socket.
func (d *Target) noteListener(s *sockdiag.InetSocket) {
	ip := s.Local.Addr()
	d.noteAddress(ip.Unmap())
	if ip == netip.IPv6Unspecified() && !s.V6Only {
		d.noteAddress(netip.IPv4Unspecified())
	}
}

// noteAddress keeps where to connect to what is bound to ip, if it is what we look for.
func (d *Target) noteAddress(ip netip.Addr) {
	want := d.address.IP
	to := ip
	switch {
	case want.IsValid() && !want.IsUnspecified():
		if ip != want && !(ip.IsUnspecified() && ip.Is4() == want.Is4()) {
			return
		}
		to = want
	case ip == netip.IPv4Unspecified():
		to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case ip.IsUnspecified():
		to = netip.IPv6Loopback()
	}
	four, six := d.address.Families()
	switch {
	case to.Is4() && four && (!d.four.IsValid() || ip.IsUnspecified()):
		d.four = to
	case !to.Is4() && six && (!d.six.IsValid() || ip.IsUnspecified()):
		d.six = to
	}
}

// lookUnix finds the node, in the program's root, by its links and with its ids, and whether a
// socket of the program's network is bound to such a node and listens. That is a
// reason to connect, and no proof: the kernel tells half of an inode's number.
func (d *Target) lookUnix() (bool, error) {
	d.closeNode()
	if d.program.place == nil {
		return false, errUnidentified
	}
	show, is := sockdiag.ShowName, d.isName
	if !d.isAbstract() {
		stat, found := d.openNode()
		if !found {
			return false, nil // not there yet
		}
		show, is = sockdiag.ShowNode, func(s *sockdiag.UnixSocket) bool { return d.isNode(&stat, s.Node) }
	}
	found := false
	err := sockdiag.Unix{States: sockdiag.Listening, Show: show}.Each(d.program.diag, func(s *sockdiag.UnixSocket) {
		found = found || s.Type == unix.SOCK_STREAM && s.State == sockdiag.Listening && is(s)
	})
	if errors.Is(err, unix.ENOENT) {
		return d.isAbstract() || d.node >= 0, nil // a kernel without CONFIG_UNIX_DIAG: to connect is the only question
	}
	return found, err
}

// isName reports whether a socket has the name.
func (d *Target) isName(s *sockdiag.UnixSocket) bool {
	return len(s.Name) > 0 && s.Name[0] == 0 && string(s.Name[1:]) == d.address.Path[1:]
}

// openNode opens the node, if it is that of a socket.
func (d *Target) openNode() (stat unix.Stat_t, found bool) {
	err := d.program.ids.Do(func() (err error) {
		d.node, err = fd.OpenInRoot(d.program.root, d.address.Path, unix.O_PATH)
		return err
	})
	if err != nil {
		return stat, false
	}
	err = unix.Fstat(d.node, &stat)
	return stat, err == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// isNode compares what the kernel tells: half of the inode's number, and the device. Of
// file systems that have devices of their own for stat(2), the number alone.
func (d *Target) isNode(stat *unix.Stat_t, node sockdiag.Node) bool {
	if node == (sockdiag.Node{}) || node.Inode != uint32(stat.Ino) {
		return false
	}
	if unix.Mkdev(node.Device>>20, node.Device&(1<<20-1)) == stat.Dev { // 12 bits major, 20 minor: linux/kdev_t.h
		return true
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(d.node, &fs); err != nil {
		return false
	}
	switch uint32(fs.Type) {
	case unix.BTRFS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.BCACHEFS_SUPER_MAGIC:
		return true
	}
	return false
}

func (d *Target) closeNode() {
	if d.node >= 0 {
		_ = unix.Close(d.node)
		d.node = -1
	}
	d.known = false
}
