package fd

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ID says which file it is. Numbers of inodes are used again, so it has the time of its
// birth too, where the file system knows it.
type ID struct {
	Dev, Ino uint64
	Born     unix.StatxTimestamp
}

// status is what is asked of a file that is open.
type status struct {
	id    ID
	mode  uint32
	uid   uint32
	gid   uint32
	links uint32
}

// readStatus asks for it, statx(2).
func readStatus(fd int) (s status, err error) {
	var x unix.Statx_t
	err = RetryEINTR(func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &x)
	})
	s = status{ID{unix.Mkdev(x.Dev_major, x.Dev_minor), x.Ino, x.Btime}, uint32(x.Mode), x.Uid, x.Gid, x.Nlink}
	if x.Mask&unix.STATX_BTIME == 0 {
		s.id.Born = unix.StatxTimestamp{}
	}
	return s, err
}

// openStatus opens what stands at a name in a folder, and looks at it. The caller closes the descriptor; path is for errors.
func openStatus(folder int, name, path string, flags int) (fd int, s status, err error) {
	if fd, err = openAt(folder, name, flags, 0); err != nil {
		return -1, s, &os.PathError{Op: "open", Path: path, Err: err}
	}
	if s, err = readStatus(fd); err != nil {
		_ = unix.Close(fd)
		return -1, s, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fd, s, nil
}

func (s *status) is(kind uint32) bool { return s.mode&unix.S_IFMT == kind }

// claimed are the folders that services may write. There is one set in a process: a
// walk that did not know of it would be a hole. It only grows: what a service
// has left in a folder stays there when its configuration goes.
var claimed = struct {
	sync.RWMutex
	ids   map[ID]string   // the path that each was claimed by, without links
	paths map[string]bool // also of what is not there yet
}{ids: map[ID]string{}, paths: map[string]bool{}}

// ClaimedAs is the path that a folder was claimed by; "": it is no service's.
func ClaimedAs(id ID) string {
	claimed.RLock()
	defer claimed.RUnlock()
	return claimed.ids[id]
}

// noteClaimed reports whether a folder is claimed, by its identity or by the path at which it
// stands now.
func noteClaimed(id ID, path string) bool {
	claimed.RLock()
	_, known := claimed.ids[id]
	expected := claimed.paths[path]
	claimed.RUnlock()
	if expected && !known {
		claimed.Lock()
		claimed.ids[id] = path
		claimed.Unlock()
	}
	return known || expected
}
