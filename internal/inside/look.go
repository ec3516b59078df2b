package inside

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
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

// lookUnix finds the node, in the program's root and by its links, and whether a
// socket of the program's network is bound to just that node and listens: what else
// its links may lead to is none of ours.
func (d *Door) lookUnix() (bool, error) {
	name, abstract := strings.CutPrefix(d.address.Path, "@")
	d.forget()
	var inode uint64
	show := uint32(showName)
	if !abstract {
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
		node, err := unix.Openat2(d.room.root, d.address.Path, &how)
		if err != nil {
			return false, nil // not there yet
		}
		d.node = node
		var stat unix.Stat_t
		if err := unix.Fstat(node, &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return false, nil
		}
		inode, show = stat.Ino, showNode
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
		attributes(msg[16:], func(kind uint16, value []byte) {
			found = found || abstract && kind == attrName && string(value) == "\x00"+name ||
				!abstract && kind == attrNode && len(value) >= 4 && binary.NativeEndian.Uint32(value) == uint32(inode)
		})
	})
	return found, err
}

func (d *Door) forget() {
	if d.node >= 0 {
		_ = unix.Close(d.node)
		d.node = -1
	}
}
