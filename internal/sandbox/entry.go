package sandbox

import (
	"errors"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// entryKind is what a rootEntry puts at its path.
type entryKind uint8

// The kinds. Only binds have a source on the host that is opened.
const (
	entryFolder    entryKind = iota // a directory in the top tmpfs or a tmpfs already there
	entryLink                       // a symbolic link to Source
	entryTmpfs                      // a fresh tmpfs
	entryReadOnly                   // Source and everything mounted below it, read-only
	entryWritable                   // the same, writable
	entryDevice                     // one device node
	entryCover                      // an empty folder, read-only, over one of the host's
	entryTerminals                  // pseudoterminals of its own, pts(4)
	entryText                       // a copy of the file that is there, read-only, with text before it; Source on the host
	entryMachine                    // a part of /proc, read-only: itself, or what Source is inside
)

// rootEntry is one thing in the root.
type rootEntry struct {
	Kind     entryKind
	Path     string // absolute, inside
	Source   string // binds: absolute, on the host; Link: its target
	real     string // binds: Source without a link, and opened so; "": it is opened as it is
	Mode     uint32 // Folder and Tmpfs: permissions, sticky bit included
	Size     uint64 // Tmpfs: bytes, 0: the kernel's default, half of the memory
	Optional bool   // binds: a missing Source is left out
	text     string // Text: what is before the rest
	folder   bool   // binds: Source is one
	Asked    bool   // by the configuration: its mount point may have to be made, or be missing
}

func (e rootEntry) isBind() bool {
	return e.Kind == entryReadOnly || e.Kind == entryWritable || e.Kind == entryDevice
}

// lookAtSource looks at what a bind is of. That it is not there is an error of the opening,
// which says more. What the configuration names may lie where a service writes, so it is walked to;
// the host's system folders do not.
func (e *rootEntry) lookAtSource() error {
	if !e.isBind() || !e.Asked {
		return nil
	}
	place, err := fd.WalkTo(e.Source)
	var link *fd.LinkError
	if errors.As(err, &link) {
		return NewError("open", e.Source, err)
	}
	if err != nil {
		e.real = e.Source
		return nil
	}
	defer place.Close()
	if !place.Magic() {
		e.real = place.Path()
	}
	if source, err := place.OpenPath(); err == nil {
		var stat unix.Stat_t
		e.folder = unix.Fstat(source, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
		_ = unix.Close(source)
	}
	return nil
}

// tmpfsOptions are a fresh tmpfs's.
func (e rootEntry) tmpfsOptions() string {
	options := "mode=0755"
	if e.Mode == 0o1777 {
		options = "mode=1777"
	}
	if e.Size != 0 {
		// Files that are empty take memory too, about a kilobyte.
		options += ",size=" + strconv.FormatUint(e.Size, 10) + ",nr_inodes=" + strconv.FormatUint(e.Size>>12, 10)
	}
	return options
}
