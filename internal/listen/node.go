package listen

import (
	"os"

	"golang.org/x/sys/unix"
)

// node is what a socket or FIFO has in the file system.
type node struct {
	path string
	id   inode
	fifo bool
	made bool // by us; an existing FIFO is used, not owned
}

// makeReserve links the node a second time. A file system without hard links goes
// without: a deleted node is then bound anew.
func (n *node) makeReserve(at place) {
	if at.linkName(at.Name, at.reserveName()) == unix.EEXIST && n.clearReserve(at) {
		_ = at.linkName(at.Name, at.reserveName())
	}
}

// clearReserve takes away the reserve of an activator that was killed after its node
// had been deleted.
func (n *node) clearReserve(at place) bool {
	if !n.fifo {
		return at.clearStale(at.reserveName()) == nil
	}
	st, err := at.Stat(at.reserveName())
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO &&
		int(st.Uid) == os.Geteuid() && at.removeName(at.reserveName()) == nil
}

// removeNames takes away what is still ours.
func (n *node) removeNames() { n.withPlace(n.removeFrom) }

func (n *node) removeFrom(at place) {
	if n.made {
		at.removeInode(at.Name, n.id)
	}
	at.removeInode(at.reserveName(), n.id)
}

func (n *node) removeReserve() {
	n.withPlace(func(at place) { at.removeInode(at.reserveName(), n.id) })
}

// withPlace calls f with where the node stands, if its folder is there.
func (n *node) withPlace(f func(at place)) {
	at, err := openPlace(n.path)
	if err != nil {
		return
	}
	defer at.Close()
	f(at)
}
