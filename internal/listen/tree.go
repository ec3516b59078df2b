package listen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// tree watches the folders of nodes, all with one inotify. It is the watcher's,
// under its mutex. inotify(7).
type tree struct {
	file  *os.File              // nil: none yet, or none to be had
	dirs  map[int32]*folder     // by watch descriptor
	users map[any]*watchedEntry // by whose node it is
	known map[string]neighbour  // by folder; forgotten with the first event about the node
}

// neighbour is a node with a plain way: all its folders are there and watched, and none is a link.
type neighbour struct {
	entry  *watchedEntry
	folder inode
}

// folder is one watched folder; several paths may lead to it.
type folder struct {
	wd    int32
	names map[string]map[*watchedEntry]bool // the nodes that ask for an entry of it
	self  map[*watchedEntry]bool            // the nodes in or below it
}

// watchedNode is a node, and what is called when it may have changed.
type watchedNode struct {
	node    node
	socket  string // whose node it is: an address, for the log
	changed func()
}

// watchedEntry is what one node asks for.
type watchedEntry struct {
	watchedNode
	dirs map[int32][]string // by watch descriptor: the entries asked for
	slow bool               // not all of it can be watched
	told *pathState         // if slow: what stood there when changed was called last; nil: it is in its place, or was not looked at
}

const (
	// entries come and go in the folder of a node.
	entryMask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	// selfMask is enough for the folders above: they cannot go without being
	// moved or emptied, and say nothing of what else happens in them.
	selfMask = unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_MASK_ADD
)

func newInotify() (*os.File, error) {
	// Blocking, so not in the runtime's poller but in our epoll alone.
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err == unix.EMFILE {
		return nil, fmt.Errorf("%w: raise sysctl fs.inotify.max_user_instances or the limit of open files", os.NewSyscallError("inotify_init1", err))
	}
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// watchNode watches n and the folders above it, instead of those before. Where
// the folder of n is missing, or a link that is not followed, the next one above
// tells when it comes. After an error, or without an inotify, it is slow: a timer has to look.
func (t *tree) watchNode(of any, n watchedNode) error {
	if t.dirs == nil {
		t.dirs, t.users, t.known = make(map[int32]*folder), make(map[any]*watchedEntry), make(map[string]neighbour)
	}
	before := t.users[of]
	u := &watchedEntry{watchedNode: n, dirs: make(map[int32][]string)}
	t.users[of] = u
	if before != nil {
		u.told = before.told
	}
	if t.file == nil {
		u.slow = true
		return nil
	}
	if before == nil && t.joinNeighbour(u) {
		return nil
	}
	var plain bool
	var failed error
	for range mostChanges {
		var watched nearest
		if watched, plain, failed = t.addWay(u); watched == nearestTo(n.node.path) {
			break // else it changed before it was watched
		}
		plain = false
	}
	// Only now, so that folders in both keep their watch and no event is lost.
	t.leaveFolders(before)
	if dir := filepath.Dir(n.node.path); plain {
		t.known[dir] = neighbour{u, inodeAt(dir)}
	}
	u.slow = failed != nil
	return failed
}

// joinNeighbour has u watch the folders that are watched for another node in its folder, and
// reports whether there is one. Of a thousand services many have their nodes in one folder.
func (t *tree) joinNeighbour(u *watchedEntry) bool {
	dir := filepath.Dir(u.node.path)
	other, there := t.known[dir]
	if !there || inodeAt(dir) != other.folder { // mounted over: no event tells that
		return false
	}
	for wd, names := range other.entry.dirs {
		if len(names) > 0 {
			names = entryNames(u.node.path)
		}
		t.addEntry(u, wd, names)
	}
	return true
}

// entryNames are the entries of a node's folder that matter to it.
func entryNames(path string) []string {
	return []string{filepath.Base(path), filepath.Base(spec.ReservePath(path))}
}

// mostChanges is how often a way that changes while it is being watched is looked at again.
const mostChanges = 10

// nearest is the last folder on the way to a node that is there.
type nearest struct {
	path string
	id   fd.ID
}

func nearestTo(path string) nearest {
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if folder, err := fd.OpenFolder(dir); err == nil {
			folder.Close()
			return nearest{dir, folder.ID()}
		}
		if dir == "/" {
			return nearest{}
		}
	}
}

// addWay watches the folders on the way to the node of u, the last one first. Plain is false
// where one is missing, or where a link leads on.
func (t *tree) addWay(u *watchedEntry) (found nearest, plain bool, failed error) {
	path := u.node.path
	names := entryNames(path)
	plain = true
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		folder, err := fd.OpenFolder(dir)
		there := err == nil
		if there {
			if found.path == "" {
				found = nearest{dir, folder.ID()}
				t.addResolved(u, folder.Path())
			}
			plain = plain && folder.Path() == dir
			err = t.addFolder(u, folder, names)
			folder.Close()
		}
		plain = plain && err == nil
		switch {
		case err == nil:
			names = linkName(dir) // above it else only the folders themselves matter
		case names == nil: // above what is watched
		default:
			if failed == nil && (there || !isAbsent(err)) {
				failed = err // the folder is there, but cannot be watched
			}
			names = []string{filepath.Base(dir)}
		}
		if dir == "/" {
			return found, plain, failed
		}
	}
}

// addResolved watches the folders above one that is reached by a link.
func (t *tree) addResolved(u *watchedEntry, path string) {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		if spec.IsBelow(u.node.path, dir) {
			return
		}
		if folder, err := fd.OpenFolder(dir); err == nil {
			_ = t.addFolder(u, folder, nil)
			folder.Close()
		}
	}
}

// isAbsent reports whether err says that there is no folder, or a link that is not followed.
func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// linkName is the name of a folder that is reached by a link at its path: the folder above is
// watched for the link.
func linkName(dir string) []string {
	var st unix.Stat_t
	if unix.Lstat(dir, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return []string{filepath.Base(dir)}
	}
	return nil
}

// addFolder watches a folder for names, or only for itself. It is watched by its descriptor: at its
// path another one may stand by now.
func (t *tree) addFolder(u *watchedEntry, at *fd.Folder, names []string) error {
	mask := uint32(selfMask)
	if len(names) > 0 {
		mask |= entryMask
	}
	dir := at.Path()
	var wd int
	err := control(t.file, func(inotify int) (err error) {
		wd, err = unix.InotifyAddWatch(inotify, fd.LinkOf(at.FD()), mask)
		return err
	})
	if err == unix.ENOSPC {
		return fmt.Errorf("%s: %w: raise sysctl fs.inotify.max_user_watches", dir, os.NewSyscallError("inotify_add_watch", err))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, os.NewSyscallError("inotify_add_watch", err))
	}
	t.addEntry(u, int32(wd), names)
	return nil
}

// addEntry has u hear what happens to a watched folder, and to these entries of it.
func (t *tree) addEntry(u *watchedEntry, wd int32, names []string) {
	d := t.dirs[wd]
	if d == nil {
		d = &folder{wd: wd, names: make(map[string]map[*watchedEntry]bool), self: make(map[*watchedEntry]bool)}
		t.dirs[d.wd] = d
	}
	d.self[u] = true
	u.dirs[d.wd] = append(u.dirs[d.wd], names...) // two paths may lead here
	for _, name := range names {
		if d.names[name] == nil {
			d.names[name] = make(map[*watchedEntry]bool)
		}
		d.names[name][u] = true
	}
}

// leaveFolders takes u out of its folders; a folder that no node asks for is not watched.
func (t *tree) leaveFolders(u *watchedEntry) {
	if u == nil {
		return
	}
	t.forgetNeighbour(u)
	for wd, names := range u.dirs {
		d := t.dirs[wd]
		if d == nil {
			continue
		}
		delete(d.self, u)
		for _, name := range names {
			d.dropName(name, u)
		}
		if len(d.self) == 0 {
			delete(t.dirs, wd)
			_ = control(t.file, func(fd int) error {
				_, err := unix.InotifyRmWatch(fd, uint32(wd))
				return err
			})
		}
	}
}

// forgetNeighbour has nobody join u any more: it leaves, or something on its way may have changed.
func (t *tree) forgetNeighbour(u *watchedEntry) {
	if dir := filepath.Dir(u.node.path); t.known[dir].entry == u {
		delete(t.known, dir)
	}
}

func (d *folder) dropName(name string, u *watchedEntry) {
	delete(d.names[name], u)
	if len(d.names[name]) == 0 {
		delete(d.names, name)
	}
}

func (t *tree) forgetNode(of any) {
	t.leaveFolders(t.users[of])
	delete(t.users, of)
}

// readEvents takes the events that wait and returns what to call, each once.
func (t *tree) readEvents() []func() {
	hit := make(map[*watchedEntry]bool)
	_ = control(t.file, func(fd int) error {
		// The descriptor is blocking: a watch removed meanwhile may have taken
		// its events along.
		if pollNow(fd)&unix.POLLIN == 0 {
			return nil
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Read(fd, buf)
		for err == nil && n >= unix.SizeofInotifyEvent {
			size := t.noteEvent(buf, hit)
			buf, n = buf[size:], n-size
		}
		return err
	})
	calls := make([]func(), 0, len(hit))
	for u := range hit {
		t.forgetNeighbour(u)
		calls = append(calls, u.changed)
	}
	return calls
}

// noteEvent notes the nodes that the first event in buf is about, and returns its size.
func (t *tree) noteEvent(buf []byte, hit map[*watchedEntry]bool) int {
	e := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
	size := unix.SizeofInotifyEvent + int(e.Len)
	name := unix.ByteSliceToString(buf[unix.SizeofInotifyEvent:size])
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		for _, u := range t.users {
			hit[u] = true
		}
		return size
	}
	d := t.dirs[e.Wd]
	if d == nil {
		return size // left since
	}
	asks := d.self
	if name != "" {
		asks = d.names[name]
	}
	for u := range asks {
		hit[u] = true
	}
	if e.Mask&unix.IN_IGNORED != 0 {
		for u := range d.self {
			delete(u.dirs, d.wd)
		}
		delete(t.dirs, d.wd)
	}
	return size
}

func (t *tree) close() {
	t.dirs, t.users, t.known = nil, nil, nil
	if t.file != nil {
		_ = t.file.Close()
	}
}

// pathState is what stands at a node's path and at its reserve's (zero: nothing), and
// which is the first on the way up that is there at all, be it a folder or not.
type pathState struct {
	node, reserve inode
	near          string
	nearID        inode
}

func (n *node) lookUp() (now pathState) {
	now.node, now.reserve = inodeAt(n.path), inodeAt(spec.ReservePath(n.path))
	for now.near = n.path; now.nearID == (inode{}) && now.near != "/"; {
		now.near = filepath.Dir(now.near)
		now.nearID = inodeAt(now.near)
	}
	return now
}

// inodeAt only looks; what is done then is done beneath the folder.
func inodeAt(path string) inode {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return inode{}
	}
	return inode{st.Dev, st.Ino}
}
