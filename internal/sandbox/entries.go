package sandbox

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/spec"
)

// listEntries lists what stands in the root.
func listEntries(s spec.Sandbox, program string, directories []spec.Mount, inside Inside) ([]rootEntry, error) {
	entries, err := baseEntries(s)
	if err != nil {
		return nil, err
	}
	entries = append(entries, freshEntries()...)
	if s.Root == "" { // a root folder has nothing but what was put there
		entries = append(entries, coverFolders(hidden)...)
	}
	asked, err := askedEntries(s, directories)
	if err != nil {
		return nil, err
	}
	bound, err := addProgram(s, program, entries, asked)
	if err != nil {
		return nil, err
	}
	return slices.Concat(entries, inside.listEntries(s.Root, slices.Concat(entries, asked)), asked, bound), nil
}

// baseEntries lists the top level of the root: the host's system folders, or the
// entries of the root folder.
func baseEntries(s spec.Sandbox) ([]rootEntry, error) {
	if s.Root == "" {
		return hostBase(), nil
	}
	folder, err := fd.OpenFolder(s.Root)
	if err != nil {
		return nil, NewError("root", s.Root, err)
	}
	defer folder.Close()
	names, err := folder.List()
	if err != nil {
		return nil, NewError("root", s.Root, err)
	}
	slices.Sort(names)
	entries := topEntries(folder, names)
	for i := range entries {
		if entries[i].isBind() {
			entries[i].real = entries[i].Source
		}
	}
	return entries, nil
}

// hostBase is the host's. Every start wants it, and it changes when / does.
func hostBase() []rootEntry {
	var top unix.Stat_t
	_ = unix.Stat("/", &top)
	known.Lock()
	defer known.Unlock()
	if known.base == nil || known.top.Mtim != top.Mtim || known.top.Ino != top.Ino || known.top.Dev != top.Dev {
		names := []string{"bin", "etc", "sbin", "usr"}
		libraries, _ := filepath.Glob("/lib*")
		for _, path := range libraries {
			names = append(names, filepath.Base(path))
		}
		folder, err := fd.OpenFolder("/")
		if err != nil {
			return nil
		}
		defer folder.Close()
		known.top, known.base = top, topEntries(folder, names)
	}
	return slices.Clone(known.base)
}

var known struct {
	sync.Mutex
	top  unix.Stat_t
	base []rootEntry
}

func topEntries(folder *fd.Folder, names []string) (entries []rootEntry) {
	for _, name := range names {
		if entry, ok := topEntry(folder, name); ok {
			entries = append(entries, entry)
		}
	}
	return entries
}

func topEntry(folder *fd.Folder, name string) (rootEntry, bool) {
	stat, err := folder.Stat(name)
	if err != nil || slices.Contains(fresh, name) || name == "lost+found" {
		return rootEntry{}, false
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := folder.ReadLink(name)
		return rootEntry{Kind: entryLink, Path: "/" + name, Source: target}, err == nil
	case unix.S_IFDIR, unix.S_IFREG:
		return rootEntry{Kind: entryReadOnly, Path: "/" + name, Source: filepath.Join(folder.Path(), name), folder: stat.Mode&unix.S_IFMT == unix.S_IFDIR}, true
	}
	return rootEntry{}, false // sockets, devices and pipes have no place at the top
}

// The fresh file systems are the host's memory, which they take from all others. A service
// that needs more names it, in tmpfs or writable.
const (
	roomy = 256 << 20 // for files that programs make on the way
	small = 64 << 20  // for sockets and pid files; and for shared memory as much as container engines give
)

// freshEntries are the same in every root. /proc is not among them: it has to be
// mounted while the old one can still be seen.
func freshEntries() []rootEntry {
	entries := []rootEntry{{Kind: entryFolder, Path: "/dev", Mode: 0o755}}
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		path := "/dev/" + name
		entries = append(entries, rootEntry{Kind: entryDevice, Path: path, Source: path, Optional: name == "tty"})
	}
	return append(entries,
		rootEntry{Kind: entryLink, Path: "/dev/fd", Source: "/proc/self/fd"},
		rootEntry{Kind: entryLink, Path: "/dev/stdin", Source: "/proc/self/fd/0"},
		rootEntry{Kind: entryLink, Path: "/dev/stdout", Source: "/proc/self/fd/1"},
		rootEntry{Kind: entryLink, Path: "/dev/stderr", Source: "/proc/self/fd/2"},
		rootEntry{Kind: entryTerminals, Path: "/dev/pts"},
		rootEntry{Kind: entryLink, Path: "/dev/ptmx", Source: "pts/ptmx"},
		rootEntry{Kind: entryTmpfs, Path: "/dev/shm", Mode: 0o1777, Size: small},
		rootEntry{Kind: entryTmpfs, Path: "/tmp", Mode: 0o1777, Size: roomy},
		rootEntry{Kind: entryTmpfs, Path: "/run", Mode: 0o755, Size: small},
		rootEntry{Kind: entryTmpfs, Path: "/var", Mode: 0o755, Size: roomy},
		rootEntry{Kind: entryFolder, Path: "/var/tmp", Mode: 0o1777},
		rootEntry{Kind: entryLink, Path: "/var/run", Source: "/run"},
	)
}

// hidden are folders in the host's system folders that no service needs: the
// kernel's modules tell an intruder exactly which kernel this is.
var hidden = []string{"/usr/lib/modules", "/lib/modules"}

// coverFolders covers those of folders that exist. One that is reached through a symbolic
// link, as /lib is on most hosts, is the same as another.
func coverFolders(folders []string) []rootEntry {
	var entries []rootEntry
	for _, folder := range folders {
		found, err := fd.OpenLinkless(folder, unix.O_PATH|unix.O_DIRECTORY)
		switch err {
		case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
			continue
		case nil:
			_ = unix.Close(found)
		}
		entries = append(entries, rootEntry{Kind: entryCover, Path: folder})
	}
	return entries
}

// askedEntries lists what the configuration mounts, parents before what lies in them.
func askedEntries(s spec.Sandbox, directories []spec.Mount) ([]rootEntry, error) {
	var asked []rootEntry
	for _, path := range s.Tmpfs {
		asked = append(asked, rootEntry{Kind: entryTmpfs, Path: path, Mode: 0o755, Asked: true})
	}
	for _, m := range s.ReadOnly {
		asked = append(asked, rootEntry{Kind: entryReadOnly, Path: m.Inside, Source: m.Host, Asked: true})
	}
	for _, m := range slices.Concat(s.Writable, directories) {
		asked = append(asked, rootEntry{Kind: entryWritable, Path: m.Inside, Source: m.Host, Asked: true})
	}
	seen := map[string]bool{}
	for i, entry := range asked {
		path := filepath.Clean(entry.Path)
		if why := whyForbidden(path); why != "" {
			return nil, &StepError{Step: "mount", Path: entry.Path, Cure: why}
		}
		if seen[path] {
			return nil, &StepError{Step: "mount", Path: path, Errno: syscall.EEXIST,
				Cure: "two mounts for one place, remove one"}
		}
		seen[path], asked[i].Path = true, path
	}
	slices.SortStableFunc(asked, func(a, b rootEntry) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return asked, nil
}

// whyForbidden says why nothing may be mounted at path; "" when it may.
func whyForbidden(path string) string {
	switch {
	case !filepath.IsAbs(path):
		return "the path inside must be absolute"
	case path == "/":
		return "the root itself is chosen by root = \"...\""
	case spec.IsBelow(path, "/proc"):
		return "/proc is the kernel's own and always fresh"
	case spec.IsBelow(path, "/dev") && !spec.IsBelow(path, "/dev/shm"):
		return "/dev has a fixed set of devices"
	}
	return ""
}

// addProgram says how the program is made visible, if it is not. A root folder
// brings its own.
func addProgram(s spec.Sandbox, path string, base, asked []rootEntry) ([]rootEntry, error) {
	if !strings.Contains(path, "/") {
		return nil, nil
	}
	path = filepath.Clean(path)
	if !filepath.IsAbs(path) {
		return nil, &StepError{Step: "exec", Path: path, Cure: "give an absolute path, or a name without a slash to look up in PATH"}
	}
	covered := func(e rootEntry) bool { return spec.IsBelow(path, e.Path) }
	shown := func(e rootEntry) bool {
		return covered(e) && (e.Kind == entryReadOnly || e.Kind == entryWritable || e.Kind == entryLink)
	}
	if s.Root != "" || slices.ContainsFunc(asked, covered) || slices.ContainsFunc(base, shown) {
		return nil, nil
	}
	if why := whyForbidden(path); why != "" {
		return nil, &StepError{Step: "exec", Path: path, Cure: why}
	}
	return []rootEntry{{Kind: entryReadOnly, Path: path, Source: path, Asked: true}}, nil
}

// fresh are the top-level names that are never taken from the host or a root
// folder.
var fresh = []string{"dev", "proc", "run", "tmp", "var"}
