package fd

import (
	"path/filepath"
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

// stat asks for it, statx(2).
func stat(fd int) (s status, err error) {
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

func (s *status) is(kind uint32) bool { return s.mode&unix.S_IFMT == kind }

// claimed are the folders that services may write. There is one set in a process: a
// walk that did not know of it would be a hole. It only grows: what a service
// has left in a folder stays there when its configuration goes.
var claimed = struct {
	sync.RWMutex
	ids   map[ID]string   // the path that each was claimed by, without links
	paths map[string]bool // also of what is not there yet
}{ids: map[ID]string{}, paths: map[string]bool{}}

// ClaimFolders says that services may write these folders, and everything below them.
func ClaimFolders(paths ...string) {
	claimed.Lock()
	for _, path := range paths {
		claimed.paths[filepath.Clean(path)] = true
	}
	claimed.Unlock()
	// Twice: a link may lead into a folder that is known only by another path at
	// first.
	for range 2 {
		for _, path := range paths {
			claim(filepath.Clean(path))
		}
	}
}

// claim notes a folder as it is now, or where it will be.
func claim(path string) {
	f, missing := openNearest(path)
	if f == nil {
		return
	}
	defer f.Close()
	real := filepath.Join(f.path, missing)
	claimed.Lock()
	defer claimed.Unlock()
	claimed.paths[real] = true
	if missing == "" {
		claimed.ids[f.id] = real
	}
}

// ResolvePath is an absolute path without links, as far as folders are there, and as far as we
// follow links.
func ResolvePath(path string) string {
	f, missing := openNearest(path)
	if f == nil {
		return path
	}
	defer f.Close()
	return filepath.Join(f.path, missing)
}

// openNearest opens the folder at a path, or the nearest above it that is there, and says what
// is missing below that. The caller closes it.
func openNearest(path string) (f *Folder, missing string) {
	for at := path; ; at = filepath.Dir(at) {
		f, err := OpenFolder(at)
		if err == nil {
			return f, missing
		}
		if at == "/" {
			return nil, missing
		}
		missing = filepath.Join(filepath.Base(at), missing)
	}
}

// ClaimedAs is the path that a folder was claimed by; "": it is no service's.
func ClaimedAs(id ID) string {
	claimed.RLock()
	defer claimed.RUnlock()
	return claimed.ids[id]
}

// note reports whether a folder is claimed, by its identity or by the path at which it
// stands now.
func note(id ID, path string) bool {
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
