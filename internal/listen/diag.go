package listen

import (
	"errors"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockdiag"
)

// askSockets asks for sockets of our network namespace. What the kernel cannot tell of, there is none of.
func askSockets(f func(socket int) error) error {
	if err := sockdiag.WithSocket(f); !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// askUnix asks for the unix socket with this inode of sockfs.
func askUnix(inode uint32, show sockdiag.Show, each func(*sockdiag.UnixSocket)) error {
	return askSockets(func(socket int) error {
		return sockdiag.Unix{Inode: inode, States: sockdiag.AnyState, Show: show}.Each(socket, each)
	})
}

// isBoundTo reports whether a socket of ours is bound to a node of the folder that it was bound in.
func isBoundTo(fd int, node uint64) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && hasNode(uint32(st.Ino), node)
}

// hasNode reports whether the unix socket with this inode of sockfs is bound to a node, by the half of the
// node's number that the kernel tells. Where it tells nothing (CONFIG_UNIX_DIAG), none is.
func hasNode(socket uint32, node uint64) (has bool) {
	_ = askUnix(socket, sockdiag.ShowNode, func(s *sockdiag.UnixSocket) {
		has = has || s.Node != sockdiag.Node{} && s.Node.Inode == uint32(node)
	})
	return has
}
