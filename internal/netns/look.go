package netns

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// Address is what the program listens at: of TCP, or of a unix stream socket.
type Address struct {
	Port      uint16
	IP        netip.Addr // the zero Addr: any address of the families
	Four, Six bool       // with IP zero: the families, of which one is enough
	Path      string     // as the program sees it, or "@name"
}

const stateListen = 10 // TCP_LISTEN of include/net/tcp_states.h; unix sockets have it too

// Look reports whether the program listens at the door.
func (d *Door) Look() (bool, error) {
	if d.address.Path != "" {
		return d.lookUnix()
	}
	var err error
	d.four, d.six = netip.Addr{}, netip.Addr{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		req := header(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, 56) // struct inet_diag_req_v2, linux/inet_diag.h
		req = append(req, byte(family), unix.IPPROTO_TCP, 0, 0)
		req = binary.NativeEndian.AppendUint32(req, 1<<stateListen)
		req = binary.BigEndian.AppendUint16(req, d.address.Port)
		req = append(req, make([]byte, cap(req)-len(req))...)
		e := request(d.room.diag, req, d.see)
		if e != nil && !errors.Is(e, unix.ENOENT) && !errors.Is(e, unix.EAFNOSUPPORT) {
			err = e
		}
	}
	return d.four.IsValid() || d.six.IsValid(), err
}

// see takes in a listening socket: struct inet_diag_msg.
func (d *Door) see(msg []byte) {
	const size, skV6Only = 72, 11 // INET_DIAG_SKV6ONLY
	if len(msg) < size || binary.BigEndian.Uint16(msg[4:]) != d.address.Port {
		return
	}
	if msg[0] == unix.AF_INET {
		d.offer(netip.AddrFrom4([4]byte(msg[8:12])))
		return
	}
	ip := netip.AddrFrom16([16]byte(msg[8:24]))
	only := false
	attributes(msg[size:], func(kind uint16, value []byte) {
		only = only || kind == skV6Only && len(value) > 0 && value[0] != 0
	})
	d.offer(ip.Unmap())
	if ip.IsUnspecified() && !only {
		d.offer(netip.IPv4Unspecified())
	}
}

// offer keeps where to connect to what is bound to ip, if it is what we look for.
func (d *Door) offer(ip netip.Addr) {
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
	switch {
	case to.Is4() && d.address.Four && (!d.four.IsValid() || ip.IsUnspecified()):
		d.four = to
	case !to.Is4() && d.address.Six && (!d.six.IsValid() || ip.IsUnspecified()):
		d.six = to
	}
}

// Of linux/unix_diag.h.
const (
	showName, attrName = 1, 0 // UDIAG_SHOW_NAME, UNIX_DIAG_NAME
	showNode, attrNode = 2, 1 // UDIAG_SHOW_VFS, UNIX_DIAG_VFS
)

// lookUnix finds the node, in the program's root, by its links and with its ids, and whether a
// socket of the program's network is bound to such a node and listens. That is a
// reason to connect, and no proof: the kernel tells half of an inode's number.
func (d *Door) lookUnix() (bool, error) {
	d.forget()
	if d.room.place == nil {
		return false, errUnidentified
	}
	show, is := uint32(showName), d.isName
	if !d.abstract() {
		stat, found := d.openNode()
		if !found {
			return false, nil // not there yet
		}
		show, is = showNode, func(kind uint16, value []byte) bool { return kind == attrNode && d.isNode(&stat, value) }
	}
	req := header(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, 24) // struct unix_diag_req
	req = append(req, unix.AF_UNIX, 0, 0, 0)
	req = binary.NativeEndian.AppendUint32(req, 1<<stateListen)
	req = binary.NativeEndian.AppendUint32(req, 0)
	req = binary.NativeEndian.AppendUint32(req, show)
	req = append(req, make([]byte, 8)...)
	found := false
	err := request(d.room.diag, req, func(msg []byte) {
		if len(msg) < 16 || msg[1] != unix.SOCK_STREAM || msg[2] != stateListen { // struct unix_diag_msg
			return
		}
		attributes(msg[16:], func(kind uint16, value []byte) { found = found || is(kind, value) })
	})
	if errors.Is(err, unix.ENOENT) {
		return d.abstract() || d.node >= 0, nil // a kernel without CONFIG_UNIX_DIAG: to connect is the only question
	}
	return found, err
}

// isName reports whether an attribute is the name.
func (d *Door) isName(kind uint16, value []byte) bool {
	return kind == attrName && len(value) > 0 && value[0] == 0 && string(value[1:]) == d.address.Path[1:]
}

// openNode opens the node, if it is that of a socket.
func (d *Door) openNode() (stat unix.Stat_t, found bool) {
	err := d.room.ids.Do(func() (err error) {
		d.node, err = fd.OpenInRoot(d.room.root, d.address.Path, unix.O_PATH)
		return err
	})
	if err != nil {
		return stat, false
	}
	err = unix.Fstat(d.node, &stat)
	return stat, err == nil && stat.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// isNode compares struct unix_diag_vfs: half of the inode's number, and the device. Of
// file systems that have devices of their own for stat(2), the number alone.
func (d *Door) isNode(stat *unix.Stat_t, value []byte) bool {
	if len(value) < 8 || binary.NativeEndian.Uint32(value) != uint32(stat.Ino) {
		return false
	}
	device := binary.NativeEndian.Uint32(value[4:]) // 12 bits major, 20 minor: linux/kdev_t.h
	if unix.Mkdev(device>>20, device&(1<<20-1)) == stat.Dev {
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

func (d *Door) forget() {
	if d.node >= 0 {
		_ = unix.Close(d.node)
		d.node = -1
	}
	d.known = false
}
