package process

import (
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// hostState is what a sandbox took from the host when it was built, so that much
// later one can tell whether it would take the same again. A mount of a single file
// is that inode: a program that is replaced, by rename(2) as package managers do,
// stays the old one in it. What happens inside a folder that is mounted, and what
// is written to a file, is seen by itself.
type hostState struct {
	mounts *mountTable
	table  []mount // at that time; shared, never changed
	stats  []inode
}

// inode says what stood at a path. Its number is not given to another file as long as the
// sandbox has it.
type inode struct {
	path     string
	dev, ino uint64 // 0, 0: nothing
	mtime    unix.Timespec
	listed   bool // what it lists counts, links among it: so its mtime does
}

// noteHost notes what Resolve will look at, before it does.
func (t *hostState) noteHost(mounts *mountTable, s spec.Sandbox) {
	t.mounts = mounts
	t.table = t.mounts.currentMounts()
	top := s.Root
	if top == "" {
		top = "/" // of which /lib* are taken
	}
	t.notePath(top, true)
	if path := sandbox.NetworkPath(s.Network); path != "" {
		t.notePath(path, false)
	}
}

// noteSources notes what the plan's mounts are of, before they are opened.
func (t *hostState) noteSources(plan *sandbox.Plan) {
	mounted, copied := plan.Sources()
	for _, source := range mounted {
		t.notePath(source, false)
	}
	for _, source := range copied { // last: see listInodes
		t.notePath(source, true)
	}
}

func (t *hostState) notePath(path string, listed bool) {
	t.stats = append(t.stats, statOf(path, listed))
}

func statOf(path string, listed bool) inode {
	i := inode{path: path, listed: listed}
	var stat unix.Stat_t
	if unix.Stat(path, &stat) == nil {
		i.dev, i.ino = uint64(stat.Dev), stat.Ino //nolint:unconvert // 32 bits elsewhere
		if listed {
			i.mtime = stat.Mtim
		}
	}
	return i
}

// seen is an inode as a fast path compares it.
type seen struct {
	path string
	epoll.Inode
}

// listInodes is what has to be compared from now on. What stands directly in the folder
// that is listed is the same for as long as the time of the folder's last change is,
// which cannot be set; mounts are looked at by themselves.
func (t *hostState) listInodes() (all []seen) {
	folder := ""
	for _, i := range t.stats {
		s := seen{i.path, epoll.Inode{Dev: i.dev, Ino: i.ino, Mtime: i.mtime}}
		var stat unix.Stat_t
		switch {
		case i.listed && unix.Stat(i.path, &stat) == nil && time.Since(time.Unix(stat.Ctim.Unix())) > 3*time.Second:
			// Later than the tick of any clock that it was noted with.
			folder, s.Ctime = i.path, stat.Ctim
		case folder != "" && filepath.Dir(i.path) == folder && i.ino != 0 &&
			unix.Lstat(i.path, &stat) == nil && stat.Mode&unix.S_IFMT != unix.S_IFLNK:
			continue
		}
		all = append(all, s)
	}
	return all
}

// sameMounts reports whether the mounts below the sources are the same.
func (t *hostState) sameMounts(now []mount) bool {
	if len(now) == len(t.table) && (len(now) == 0 || &now[0] == &t.table[0]) {
		return true
	}
	return slices.Equal(t.mountsBelow(t.table), t.mountsBelow(now))
}

// mountsBelow picks the mounts that came along with a source. Those above are in the
// device numbers of what is noted.
func (t *hostState) mountsBelow(table []mount) (found []mount) {
	for _, m := range table {
		for i := range t.stats {
			if !t.stats[i].listed && spec.IsBelow(m.point, t.stats[i].path) {
				found = append(found, m)
				break
			}
		}
	}
	return found
}
