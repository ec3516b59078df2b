package listen

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// Client is one client that waits in a socket's queue: a plain value that is
// the same for as long as that client waits.
type Client string

// seed makes the identity of a datagram: same sender, same bytes.
var seed = maphash.MakeSeed()

// Waiting lists who waits. Connections are listed one by one (sock_diag(7)); of
// datagrams only the first in the queue is, and of what the kernel does not list
// (vsock, FIFO) only that somebody waits. Nothing is taken off the queue.
func (s *Socket) Waiting() (waiting []Client, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return nil, err
	}
	ready := false
	err = s.control("poll", func(fd int) error {
		ready = pollNow(fd)&unix.POLLIN != 0
		return nil
	})
	if err != nil || !ready {
		return nil, err
	}
	err = control(s.front(), func(fd int) (err error) {
		switch a := s.spec.Address; {
		case a.Network == spec.FIFO || a.Network == spec.VSock:
			waiting = []Client{"somebody"}
		case !a.Stream():
			waiting, err = firstDatagram(fd)
		case a.TCP():
			waiting, err = waitingTCP(fd)
		default:
			waiting, err = waitingUnix(fd)
		}
		return err
	})
	return waiting, fail(s.spec.Address, "", err, "")
}

// firstDatagram peeks at the head of the queue. Two equal datagrams of one
// sender are one to it.
func firstDatagram(socket int) ([]Client, error) {
	var buf [512]byte
	var n int
	var from unix.Sockaddr
	err := fd.Again(func() (err error) {
		n, from, err = unix.Recvfrom(socket, buf[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err
	})
	switch err {
	case nil:
		return []Client{Client(fmt.Sprintf("%v %x", from, maphash.Bytes(seed, buf[:n])))}, nil
	case unix.EAGAIN, unix.ECONNREFUSED, unix.ENOTCONN:
		return nil, nil
	}
	return nil, os.NewSyscallError("recvfrom", err)
}

// The states of a connection that has been made and not been accepted, from
// include/net/tcp_states.h: established, or already half closed by the client.
const (
	stateEstablished = 1 << 1
	stateCloseWait   = 1 << 8
)

// waitingTCP asks for the connections to our port that no file descriptor
// belongs to yet: those in the accept queue.
func waitingTCP(fd int) ([]Client, error) {
	var waiting []Client
	err := diagTCP(fd, stateEstablished|stateCloseWait, func(c tcpConn) {
		if !c.owned {
			waiting = append(waiting, Client(c.remote.String()))
		}
	})
	return waiting, err
}

// tcpConn is one connection to a port of ours.
type tcpConn struct {
	remote netip.AddrPort
	state  uint8
	owned  bool // some process has a descriptor of it
}

// diagTCP lists the connections to the port of the listener fd, in one of the
// states of a mask.
func diagTCP(fd int, states uint32, each func(tcpConn)) error {
	local, err := unix.Getsockname(fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	ours, family := addrPort(local), unix.AF_INET
	if _, six := local.(*unix.SockaddrInet6); six {
		family = unix.AF_INET6
	}
	req := make([]byte, 56) // struct inet_diag_req_v2, linux/inet_diag.h
	req[0], req[1] = byte(family), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[4:], states)
	binary.BigEndian.PutUint16(req[8:], ours.Port())
	return diag(req, unix.NLM_F_DUMP, func(msg []byte) {
		if len(msg) < 72 { // struct inet_diag_msg
			return
		}
		local, remote := sockAddr(msg[0], msg[8:24]), sockAddr(msg[0], msg[24:40])
		if !ours.Addr().IsUnspecified() && local.Unmap() != ours.Addr().Unmap() {
			return
		}
		each(tcpConn{
			remote: netip.AddrPortFrom(remote, binary.BigEndian.Uint16(msg[6:])),
			state:  msg[1],
			owned:  binary.NativeEndian.Uint32(msg[68:]) != 0, // idiag_inode
		})
	})
}

// waitingUnix asks for the peers that wait at our listener, by inode.
func waitingUnix(fd int) ([]Client, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	var waiting []Client
	err := diagUnix(uint32(st.Ino), showIcons, attrIcons, func(p []byte) {
		for ; len(p) >= 4; p = p[4:] {
			waiting = append(waiting, Client(fmt.Sprint(binary.NativeEndian.Uint32(p))))
		}
	})
	return waiting, err
}

// boundTo returns those of rows whose socket is bound to a node: the table lists names, also of nodes that are gone.
func boundTo(id inode, rows []row) (exact []row) {
	for _, r := range rows {
		if hasNode(uint32(r.inode), id) {
			exact = append(exact, r)
		}
	}
	return exact
}

// isBoundTo reports whether a socket of ours is bound to a node of the folder that it was bound in.
func isBoundTo(fd int, id inode) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && hasNode(uint32(st.Ino), id)
}

// hasNode reports whether the unix socket with this inode of sockfs is bound to a node, by the half of the
// node's number that the kernel tells. Where it tells nothing (CONFIG_UNIX_DIAG), none is.
func hasNode(socket uint32, id inode) (has bool) {
	_ = diagUnix(socket, showNode, attrNode, func(p []byte) {
		has = has || len(p) >= 4 && binary.NativeEndian.Uint32(p) == uint32(id.ino) // struct unix_diag_vfs
	})
	return has
}

// From linux/unix_diag.h.
const (
	showName  = 1 // UDIAG_SHOW_NAME
	attrName  = 0 // UNIX_DIAG_NAME
	showNode  = 2 // UDIAG_SHOW_VFS: what it is bound to
	attrNode  = 1 // UNIX_DIAG_VFS
	showIcons = 8 // UDIAG_SHOW_ICONS: the pending connections
	attrIcons = 3 // UNIX_DIAG_ICONS
)

// diagUnix asks for an attribute of the unix socket with this inode of sockfs.
func diagUnix(inode, show uint32, attr uint16, each func(payload []byte)) error {
	return diag(unixRequest(inode, ^uint32(0), show), 0, func(msg []byte) {
		unixAttributes(msg, func(found uint16, payload []byte) {
			if found == attr {
				each(payload)
			}
		})
	})
}

// unixRequest is a struct unix_diag_req, linux/unix_diag.h. states is a mask.
func unixRequest(inode, states, show uint32) []byte {
	req := make([]byte, 24)
	req[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(req[4:], states)
	binary.NativeEndian.PutUint32(req[8:], inode)
	binary.NativeEndian.PutUint32(req[12:], show)
	binary.NativeEndian.PutUint64(req[16:], ^uint64(0)) // any cookie
	return req
}

// unixAttributes takes apart what follows a struct unix_diag_msg.
func unixAttributes(msg []byte, each func(attr uint16, payload []byte)) {
	if len(msg) < 16 {
		return
	}
	for attrs := msg[16:]; len(attrs) >= 4; {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < 4 || size > len(attrs) {
			return
		}
		each(binary.NativeEndian.Uint16(attrs[2:]), attrs[4:size])
		attrs = attrs[min(len(attrs), (size+3)&^3):]
	}
}

// diag sends one SOCK_DIAG_BY_FAMILY request and calls each with every answer,
// which is valid during the call only.
func diag(req []byte, flags uint16, each func(msg []byte)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return os.NewSyscallError("socket(NETLINK_SOCK_DIAG)", err)
	}
	defer func() { _ = unix.Close(fd) }()
	head := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(req))
	binary.NativeEndian.PutUint32(head, uint32(unix.NLMSG_HDRLEN+len(req)))
	binary.NativeEndian.PutUint16(head[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(head[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	if err := unix.Sendto(fd, append(head, req...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto(NETLINK_SOCK_DIAG)", err)
	}
	buf := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvfrom(NETLINK_SOCK_DIAG)", err)
		}
		if done, err := messages(buf[:n], each); done || err != nil {
			return err
		}
	}
}

// messages takes one datagram apart; done tells that it was the last.
func messages(b []byte, each func(msg []byte)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return true, nil
		}
		body := b[unix.NLMSG_HDRLEN:size]
		switch binary.NativeEndian.Uint16(b[4:]) {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR: // also the acknowledgement, with 0
			errno := -int32(binary.NativeEndian.Uint32(body))
			if errno == 0 || unix.Errno(errno) == unix.ENOENT {
				return true, nil
			}
			return true, os.NewSyscallError("sock_diag", unix.Errno(errno))
		default:
			each(body)
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return false, nil
}

// sockAddr reads an address of struct inet_diag_sockid.
func sockAddr(family byte, b []byte) netip.Addr {
	if family == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16([16]byte(b[:16]))
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
