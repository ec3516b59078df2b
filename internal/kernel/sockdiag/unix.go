package sockdiag

import (
	"encoding/binary"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Unix is a question for unix sockets.
type Unix struct {
	Inode  uint32 // of sockfs, of the one that is meant; 0: all
	States uint32 // a mask, of all
	Show   Show
}

// Show is what of a socket is wanted, as a mask.
type Show uint32

// Of linux/unix_diag.h.
const (
	ShowName  Show = 1 // UDIAG_SHOW_NAME
	ShowNode  Show = 2 // UDIAG_SHOW_VFS
	ShowQueue Show = 8 // UDIAG_SHOW_ICONS

	unixName  = 0 // UNIX_DIAG_NAME
	unixNode  = 1 // UNIX_DIAG_VFS
	unixQueue = 3 // UNIX_DIAG_ICONS
)

// UnixSocket is one of them.
type UnixSocket struct {
	Type  uint8
	State uint32 // as a mask
	Inode uint32 // of sockfs
	Name  []byte // an abstract one begins with a 0, a path ends with one; nil: none
	Node  Node   // that it is bound to; the zero Node: none
	Queue []byte // the inodes of those that wait for accept(2), four bytes each
}

// Node is the node of a socket, as far as the kernel tells: half of its inode, and the device.
type Node struct{ Inode, Device uint32 }

// Text is the name as it is written in an address: a path, or "@name"; "": none.
func (s *UnixSocket) Text() string {
	if len(s.Name) > 0 && s.Name[0] == 0 {
		return "@" + string(s.Name[1:])
	}
	return strings.TrimSuffix(string(s.Name), "\x00")
}

// Each calls each with every such socket, valid during the call only. ENOENT: there is none,
// or the kernel cannot tell (CONFIG_UNIX_DIAG).
func (q Unix) Each(socket int, each func(*UnixSocket)) error {
	var body [24]byte // struct unix_diag_req
	body[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(body[4:], q.States)
	binary.NativeEndian.PutUint32(body[8:], q.Inode)
	binary.NativeEndian.PutUint32(body[12:], uint32(q.Show))
	binary.NativeEndian.PutUint64(body[16:], ^uint64(0)) // any cookie
	flags := uint16(unix.NLM_F_DUMP)
	if q.Inode != 0 {
		flags = unix.NLM_F_ACK
	}
	var s UnixSocket
	return os.NewSyscallError("sock_diag", Exchange(socket, unix.SOCK_DIAG_BY_FAMILY, flags, body[:], func(msg []byte) {
		if s.decodeMessage(msg) {
			each(&s)
		}
	}))
}

// decodeMessage reads struct unix_diag_msg and what follows it.
func (s *UnixSocket) decodeMessage(msg []byte) bool {
	const size = 16
	if len(msg) < size {
		return false
	}
	*s = UnixSocket{Type: msg[1], State: 1 << (msg[2] & 31), Inode: binary.NativeEndian.Uint32(msg[4:])}
	eachAttribute(msg[size:], func(kind uint16, value []byte) {
		switch {
		case kind == unixName:
			s.Name = value
		case kind == unixNode && len(value) >= 8: // struct unix_diag_vfs
			s.Node = Node{binary.NativeEndian.Uint32(value), binary.NativeEndian.Uint32(value[4:])}
		case kind == unixQueue:
			s.Queue = value
		}
	})
	return true
}
