package listen

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

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

// sparePath is the second hard link of a node, in the same folder. When
// somebody deletes the node, a link back gives the very same inode: the socket
// a running service holds, and whoever waits in its queue, are reached again.
func sparePath(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".activator")
}

// exactModes calls f on a thread of its own with a umask of 0, so that files
// have their mode from birth. The umask belongs to what CLONE_FS shares, so the
// rest of the process keeps its own; the thread is thrown away, and f starts no
// child from it (Pdeathsig would fire). Where unshare is forbidden f runs with
// our umask: nodes are born narrower then, and widened a moment later.
func exactModes(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Unshare(unix.CLONE_FS) == nil {
			unix.Umask(0)
		}
		f()
	}()
	<-done
}

// owner is who a node shall belong to; -1 leaves it.
type owner struct{ uid, gid int }

func (w owner) given() bool { return w.uid >= 0 || w.gid >= 0 }

func lookupOwner(o *Options) (owner, error) {
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

func nodeMode(o *Options) fs.FileMode {
	if o.SocketModeSet {
		return o.SocketMode.Perm()
	}
	return 0o666
}

// openUnixPath binds a unix socket to a path. Nobody can connect to a stream
// socket before listen(2), which comes last; the node never has a wider mode
// than it shall have, or another owner.
func openUnixPath(spec Spec, from *stock) (opened, error) {
	a, path := spec.Address, spec.Address.Path
	who, err := lookupOwner(&spec.Options)
	if err != nil {
		return opened{}, fail(a, "", err, "")
	}
	if err := makeParents(path, &spec.Options); err != nil {
		return opened{}, fail(a, "directory_mode", err, "")
	}
	defer lockFolder(path)()
	if err := clearPath(path); err != nil {
		return opened{}, fail(a, "", err, "")
	}
	file, family, err := newSocket(spec, from)
	if err != nil {
		return opened{}, err
	}
	id, err := bindPath(file, family, spec, who)
	if err != nil {
		_ = file.Close()
		return opened{}, err
	}
	n := &node{path: path, id: id, made: true}
	n.makeSpare()
	if err := startListening(file, spec); err != nil {
		n.remove()
		_ = file.Close()
		return opened{}, err
	}
	return opened{file: file, node: n, state: stateOf(file)}, nil
}

func bindPath(file *os.File, family int, spec Spec, who owner) (inode, error) {
	a, mode := spec.Address, nodeMode(&spec.Options)
	birth := mode
	if who.given() {
		birth = 0 // nobody gets in before it has its owner
	}
	err := control(file, func(fd int) error {
		// The node takes the mode of the unbound socket, less the umask: unix_bind_bsd()
		// of the kernel.
		if err := unix.Fchmod(fd, uint32(birth)); err != nil {
			return fail(a, "socket_mode", syscallError("fchmod", err), "")
		}
		sa, err := sockaddr(fd, family, a)
		if err != nil {
			return fail(a, "", err, "")
		}
		if err := unix.Bind(fd, sa); err != nil {
			return fail(a, "", syscallError("bind", err), bindCure(a, &spec.Options, err))
		}
		return nil
	})
	if err != nil {
		return inode{}, err
	}
	id, err := finishNode(a.Path, unix.S_IFSOCK, mode, who)
	if err != nil {
		_ = unix.Unlink(a.Path)
		return inode{}, fail(a, "", err, ownerCure(err))
	}
	return id, nil
}

func ownerCure(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) && path.Op == "chown" && errors.Is(err, unix.EPERM) {
		return "giving a node away needs CAP_CHOWN; a group you are a member of does not"
	}
	return ""
}

// finishNode gives the node that was just born at path its owner and then its
// mode, through a descriptor that stays on it whatever happens to the path.
func finishNode(path string, kind uint32, mode fs.FileMode, who owner) (inode, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return inode{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != kind {
		return inode{}, &OccupiedError{Path: path, What: describe(path, &st)}
	}
	id := inode{st.Dev, st.Ino}
	if who.given() {
		if err := unix.Fchownat(fd, "", who.uid, who.gid, unix.AT_EMPTY_PATH); err != nil {
			return id, &fs.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	if fs.FileMode(st.Mode).Perm() != mode {
		// fchmod(2) refuses O_PATH descriptors, the link in /proc does not.
		if err := unix.Chmod("/proc/self/fd/"+strconv.Itoa(fd), uint32(mode)); err != nil {
			return id, &fs.PathError{Op: "chmod", Path: path, Err: err}
		}
	}
	return id, nil
}

// makeParents makes the folders above path that are missing. They stay when the
// socket goes.
func makeParents(path string, o *Options) error {
	mode := o.DirectoryMode.Perm()
	if mode == 0 {
		mode = 0o755
	}
	dir := filepath.Dir(path)
	var missing []string
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
			break // what is wrong with it, bind says
		}
		missing = append(missing, dir)
	}
	for i := len(missing) - 1; i >= 0; i-- {
		err := unix.Mkdir(missing[i], uint32(mode))
		if err == unix.EEXIST {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "mkdir", Path: missing[i], Err: err}
		}
		st, err := os.Lstat(missing[i])
		if err == nil && st.IsDir() && st.Mode().Perm() != mode {
			err = os.Chmod(missing[i], mode) // our umask was in the way
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clearPath makes sure that nothing stands at path: a socket nobody has is
// taken away, everything else is an error.
func clearPath(path string) error {
	// The spare of a living activator means that it is about to put its node
	// back.
	if err := clearStale(sparePath(path)); err != nil {
		var busy *OccupiedError
		if errors.As(err, &busy) && busy.Live {
			return &OccupiedError{Path: path, What: describeLive(path), Live: true}
		}
	}
	return clearStale(path)
}

func clearStale(path string) error {
	// The descriptor keeps the inode: its number cannot be that of a socket that
	// is made meanwhile.
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return &OccupiedError{Path: path, What: describe(path, &st)}
	}
	live, err := probe(fd)
	if errors.Is(err, unix.EACCES) && int(st.Uid) == os.Geteuid() && st.Mode&0o200 == 0 {
		live, err = probeOwn(fd, st.Mode&0o777)
	}
	if errors.Is(err, unix.EACCES) {
		return &OccupiedError{Path: path, What: fmt.Sprintf("a socket of uid %d, which this user may not ask whether it lives,", st.Uid)}
	}
	if err != nil {
		return &fs.PathError{Op: "connect", Path: path, Err: err}
	}
	if live {
		return &OccupiedError{Path: path, What: describeLive(path), Live: true}
	}
	return removeExactly(path, inode{st.Dev, st.Ino})
}

// probe reports whether some process has the socket of this node. It does not
// disturb it: a datagram socket cannot connect to a stream socket, which the
// kernel says (EPROTOTYPE) only when there is one; connecting to a datagram
// socket sends nothing. ECONNREFUSED is a node without a socket. connect(2),
// unix(7).
func probe(node int) (live bool, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, syscallError("socket", err)
	}
	defer unix.Close(fd)
	// Through the descriptor: the name of a spare may be too long for an address.
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(node)})
	switch err {
	case nil, unix.EPROTOTYPE, unix.EPERM, unix.EAGAIN:
		return true, nil
	case unix.ECONNREFUSED:
		return false, nil
	}
	return false, err
}

// probeOwn asks a node of ours whose mode keeps out even us.
func probeOwn(node int, mode uint32) (live bool, err error) {
	name := "/proc/self/fd/" + strconv.Itoa(node)
	if err := unix.Chmod(name, mode|0o200); err != nil {
		return false, err
	}
	defer func() { _ = unix.Chmod(name, mode) }()
	return probe(node)
}

// lockFolder keeps other activators from clearing and binding in the folder of
// path at the same time, and returns the unlock. Anybody who may read the folder
// can hold such a lock, so we wait for two seconds at most and then go on: what
// is lost is the order between two that start at once. flock(2).
func lockFolder(path string) (unlock func()) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	patiently(2*time.Second, func() bool {
		return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) != unix.EWOULDBLOCK // ours, or a file system without
	})
	return func() { _ = unix.Close(fd) }
}

// removeExactly removes path if it is id, and nothing else also when somebody
// puts another socket there at this very moment: what is moved away first can
// be looked at and put back.
func removeExactly(path string, id inode) error {
	aside := sparePath(path) + "." + strconv.Itoa(unix.Gettid())
	err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, aside, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL {
		err = unix.Rename(path, aside) // NFS and others cannot RENAME_NOREPLACE
	}
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "rename", Path: path, Err: err}
	}
	if got, err := lstatID(aside); err != nil || got != id {
		_ = unix.Link(aside, path)
		_ = unix.Unlink(aside)
		return &OccupiedError{Path: path, What: "a socket that has just come", Live: true}
	}
	if err := unix.Unlink(aside); err != nil {
		return &fs.PathError{Op: "unlink", Path: aside, Err: err}
	}
	return nil
}

func lstatID(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return inode{st.Dev, st.Ino}, nil
}

func describe(path string, st *unix.Stat_t) string {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a regular file"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFLNK:
		if target, err := os.Readlink(path); err == nil {
			return fmt.Sprintf("a symbolic link to %q", target)
		}
		return "a symbolic link"
	}
	return "something unknown"
}

func describeLive(path string) string {
	rows := unixRows(path)
	if exact := boundTo(path, rows); exact != nil {
		rows = exact // others were bound to a node that is gone, perhaps ours
	}
	who := strings.TrimPrefix(holders(rows), "held by ")
	if who == "" {
		return "a live socket"
	}
	return "a live socket of " + who
}

// makeSpare links the node a second time. A file system without hard links goes
// without: a deleted node is then bound anew.
func (n *node) makeSpare() {
	spare := sparePath(n.path)
	if unix.Link(n.path, spare) == unix.EEXIST && n.clearSpare(spare) {
		_ = unix.Link(n.path, spare)
	}
}

// clearSpare takes away the spare of an activator that was killed after its node
// had been deleted.
func (n *node) clearSpare(spare string) bool {
	if !n.fifo {
		return clearStale(spare) == nil
	}
	var st unix.Stat_t
	return unix.Lstat(spare, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO &&
		int(st.Uid) == os.Geteuid() && unix.Unlink(spare) == nil
}

// here reports whether path is the node's inode.
func (n *node) here(path string) bool {
	id, err := lstatID(path)
	return err == nil && id == n.id
}

// remove takes away what is still ours.
func (n *node) remove() {
	if n.made && n.here(n.path) {
		_ = unix.Unlink(n.path)
	}
	n.removeSpare()
}

func (n *node) removeSpare() {
	if spare := sparePath(n.path); n.here(spare) {
		_ = unix.Unlink(spare)
	}
}
