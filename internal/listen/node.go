package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"

	"activator/internal/spec"

	"golang.org/x/sys/unix"
)

// inode says which file it is. It cannot be another one's as long as the socket
// bound to it, or the open FIFO, is ours: that keeps the inode alive.
type inode struct {
	dev, ino uint64
}

// node is what a socket or FIFO has in the file system.
type node struct {
	path string
	id   inode
	fifo bool
	made bool // by us; an existing FIFO is used, not owned
}

// exactModes calls f on a thread of its own with a umask of 0, so that files
// have their mode from birth. The umask belongs to what CLONE_FS shares, so the
// rest of the process keeps its own. f starts no child. Where unshare is forbidden f runs with
// our umask: nodes are born narrower then, and widened a moment later.
func exactModes(f func()) {
	_ = onThread(func() error {
		if unix.Unshare(unix.CLONE_FS) == nil {
			unix.Umask(0)
		}
		f()
		return nil
	})
}

// owner is who a node shall belong to; -1 leaves it.
type owner struct{ uid, gid int }

func (w owner) given() bool { return w.uid >= 0 || w.gid >= 0 }

func lookupOwner(o *spec.Options) (owner, error) {
	w := owner{-1, -1}
	if o.SocketUser != "" {
		uid, err := lookupID(o.SocketUser, func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
		if err != nil {
			return w, fmt.Errorf("socket_user: %w", err)
		}
		w.uid = uid
	}
	if o.SocketGroup != "" {
		gid, err := lookupID(o.SocketGroup, func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
		if err != nil {
			return w, fmt.Errorf("socket_group: %w", err)
		}
		w.gid = gid
	}
	return w, nil
}

func lookupID(name string, lookup func(string) (string, error)) (int, error) {
	id, err := strconv.ParseUint(name, 10, 31)
	if err == nil {
		return int(id), nil
	}
	text, err := lookup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

func nodeMode(o *spec.Options) fs.FileMode {
	if o.SocketModeSet {
		return o.SocketMode.Perm()
	}
	return 0o666
}

// openUnixPath binds a unix socket to a path. Nobody can connect to a stream
// socket before listen(2), which comes last; the node never has a wider mode
// than it shall have, or another owner.
func openUnixPath(want spec.Socket, from *stock) (opened, error) {
	a := want.Address
	who, err := lookupOwner(&want.Options)
	if err != nil {
		return opened{}, fail(a, "", err, "")
	}
	at, err := makeSpot(a.Path, &want.Options)
	if err != nil {
		return opened{}, fail(a, "", err, "")
	}
	defer at.Close()
	defer at.lock(from.means.Warn)()
	if err := at.clear(); err != nil {
		return opened{}, fail(a, "", err, "")
	}
	file, family, err := newSocket(want, from)
	if err != nil {
		return opened{}, err
	}
	id, err := bindPath(at, file, family, want, who)
	if err != nil {
		_ = file.Close()
		return opened{}, err
	}
	n := &node{path: a.Path, id: id, made: true}
	n.makeSpare(at)
	if err := startListening(file, want); err != nil {
		n.removeFrom(at)
		_ = file.Close()
		return opened{}, err
	}
	return opened{file: file, node: n, state: stateOf(file)}, nil
}

func bindPath(at spot, file *os.File, family int, want spec.Socket, who owner) (id inode, err error) {
	a, mode := want.Address, nodeMode(&want.Options)
	birth := mode
	if who.given() {
		birth = 0 // nobody gets in before it has its owner
	}
	err = control(file, func(fd int) error {
		// The node takes the mode of the unbound socket, less the umask: unix_bind_bsd()
		// of the kernel.
		if err := unix.Fchmod(fd, uint32(birth)); err != nil {
			return fail(a, "socket_mode", syscallError("fchmod", err), "")
		}
		sa, err := sockaddr(fd, family, a)
		if err != nil {
			return fail(a, "", err, "")
		}
		if err := at.bind(fd, sa); err != nil {
			return fail(a, "", syscallError("bind", err), bindCure(a, &want.Options, err))
		}
		if id, err = at.finish(fd, mode, who); err != nil {
			at.remove(at.Name, id)
		}
		return fail(a, "", err, ownerCure(err))
	})
	return id, err
}

func ownerCure(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op == "chown" && errors.Is(err, unix.EPERM) {
		return "giving a node away needs CAP_CHOWN; a group you are a member of does not"
	}
	return ""
}

// makeSpare links the node a second time. A file system without hard links goes
// without: a deleted node is then bound anew.
func (n *node) makeSpare(at spot) {
	if at.link(at.Name, at.spare()) == unix.EEXIST && n.clearSpare(at) {
		_ = at.link(at.Name, at.spare())
	}
}

// clearSpare takes away the spare of an activator that was killed after its node
// had been deleted.
func (n *node) clearSpare(at spot) bool {
	if !n.fifo {
		return at.clearStale(at.spare()) == nil
	}
	st, err := at.Stat(at.spare())
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO &&
		int(st.Uid) == os.Geteuid() && at.unlink(at.spare()) == nil
}

// remove takes away what is still ours.
func (n *node) remove() { n.withSpot(n.removeFrom) }

func (n *node) removeFrom(at spot) {
	if n.made {
		at.remove(at.Name, n.id)
	}
	at.remove(at.spare(), n.id)
}

func (n *node) removeSpare() {
	n.withSpot(func(at spot) { at.remove(at.spare(), n.id) })
}

// withSpot calls f with where the node stands, if its folder is there.
func (n *node) withSpot(f func(at spot)) {
	at, err := openSpot(n.path)
	if err != nil {
		return
	}
	defer at.Close()
	f(at)
}
