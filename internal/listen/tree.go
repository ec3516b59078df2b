package listen

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tree watches the folders of nodes, all with one inotify. It is the watcher's,
// under its mutex. inotify(7).
type tree struct {
	file  *os.File            // nil: none yet, or none to be had
	dirs  map[int32]*folder   // by watch descriptor
	users map[*Socket]*inTree // sockets with a watched node
}

// folder is one watched folder; several paths may lead to it.
type folder struct {
	wd    int32
	names map[string]map[*inTree]bool // who asks for an entry of it
	self  map[*inTree]bool            // who stands in or below it
}

// inTree is what one node asks for.
type inTree struct {
	node    node
	changed func()
	dirs    map[int32][]string // by watch descriptor: the entries asked for
	slow    bool               // not all of it can be watched
	told    *standing          // if slow: what stood there when changed was called last; nil: it is in its place, or was not looked at
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
		return nil, fmt.Errorf("%w: raise sysctl fs.inotify.max_user_instances or the limit of open files", syscallError("inotify_init1", err))
	}
	if err != nil {
		return nil, syscallError("inotify_init1", err)
	}
	return os.NewFile(uintptr(fd), "inotify"), nil
}

// watch watches n and the folders above it, instead of those before. Where
// the folder of n is missing, the next one above tells when it comes. After an
// error, or without an inotify, s is slow: somebody has to look.
func (t *tree) watch(s *Socket, n node, changed func()) error {
	if t.dirs == nil {
		t.dirs, t.users = make(map[int32]*folder), make(map[*Socket]*inTree)
	}
	before := t.users[s]
	u := &inTree{node: n, changed: changed, dirs: make(map[int32][]string)}
	t.users[s] = u
	if before != nil {
		u.told = before.told
	}
	if t.file == nil {
		u.slow = true
		return nil
	}
	names := []string{filepath.Base(n.path), filepath.Base(sparePath(n.path))}
	found := false
	var failed error
	for dir := filepath.Dir(n.path); ; dir = filepath.Dir(dir) {
		err := t.add(u, dir, names)
		if err == nil {
			found, names = true, nil // above it only the folders themselves matter
		} else if !found {
			if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) && failed == nil {
				failed = err // the folder is there, but cannot be watched
			}
			names = []string{filepath.Base(dir)}
		}
		if dir == "/" {
			break
		}
	}
	// Only now, so that folders in both keep their watch and no event is lost.
	t.leave(before)
	u.slow = failed != nil
	return failed
}

// add watches dir for names, or only for itself.
func (t *tree) add(u *inTree, dir string, names []string) error {
	mask := uint32(selfMask)
	if len(names) > 0 {
		mask |= entryMask
	}
	var wd int
	err := control(t.file, func(fd int) (err error) {
		wd, err = unix.InotifyAddWatch(fd, dir, mask)
		return err
	})
	if err == unix.ENOSPC {
		return fmt.Errorf("%s: %w: raise sysctl fs.inotify.max_user_watches", dir, syscallError("inotify_add_watch", err))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", dir, syscallError("inotify_add_watch", err))
	}
	d := t.dirs[int32(wd)]
	if d == nil {
		d = &folder{wd: int32(wd), names: make(map[string]map[*inTree]bool), self: make(map[*inTree]bool)}
		t.dirs[d.wd] = d
	}
	d.self[u] = true
	u.dirs[d.wd] = append(u.dirs[d.wd], names...) // two paths may lead here
	for _, name := range names {
		if d.names[name] == nil {
			d.names[name] = make(map[*inTree]bool)
		}
		d.names[name][u] = true
	}
	return nil
}

// leave takes u out of its folders; a folder nobody asks for is not watched.
func (t *tree) leave(u *inTree) {
	if u == nil {
		return
	}
	for wd, names := range u.dirs {
		d := t.dirs[wd]
		if d == nil {
			continue
		}
		delete(d.self, u)
		for _, name := range names {
			d.drop(name, u)
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

func (d *folder) drop(name string, u *inTree) {
	delete(d.names[name], u)
	if len(d.names[name]) == 0 {
		delete(d.names, name)
	}
}

func (t *tree) forget(s *Socket) {
	t.leave(t.users[s])
	delete(t.users, s)
}

// read takes the events that wait and returns whom to call, each once.
func (t *tree) read() []func() {
	hit := make(map[*inTree]bool)
	_ = control(t.file, func(fd int) error {
		// The descriptor is blocking: a watch removed meanwhile may have taken
		// its events along.
		if pollNow(fd)&unix.POLLIN == 0 {
			return nil
		}
		buf := make([]byte, 64<<10)
		n, err := unix.Read(fd, buf)
		for err == nil && n >= unix.SizeofInotifyEvent {
			size := t.event(buf, hit)
			buf, n = buf[size:], n-size
		}
		return err
	})
	calls := make([]func(), 0, len(hit))
	for u := range hit {
		calls = append(calls, u.changed)
	}
	return calls
}

// event notes who is hit by the first event in buf and returns its size.
func (t *tree) event(buf []byte, hit map[*inTree]bool) int {
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
	t.dirs, t.users = nil, nil
	if t.file != nil {
		_ = t.file.Close()
	}
}
