package sandbox

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// What of /proc is the machine's, and not a process's, belongs to the host's root in every user
// namespace. A service of that user could write it with no capability at all: the sysctls ask
// for the user alone (test_perm in fs/proc/proc_sysctl.c).

// KeepMachine has the plan of a service that is the host's root make read-only what of /proc is the
// machine's, and cover what only root may read.
func (p *Plan) KeepMachine() { p.entries = append(p.entries, machineEntries()...) }

var machineEntries = sync.OnceValue(func() (entries []rootEntry) {
	all, _ := os.ReadDir("/proc")
	for _, e := range all {
		path := filepath.Join("/proc", e.Name())
		if _, err := strconv.Atoi(e.Name()); err == nil || e.Type()&fs.ModeSymlink != 0 {
			continue
		}
		info, err := e.Info()
		switch {
		case err != nil:
		case !e.IsDir() && info.Mode().Perm()&0o044 == 0:
			entries = append(entries, rootEntry{Kind: entryMachine, Path: path, Source: "/dev/null"})
		case e.IsDir(), info.Mode().Perm()&0o222 != 0:
			entries = append(entries, rootEntry{Kind: entryMachine, Path: path, Source: path})
		}
	}
	return entries
})

// lockMachine puts an entryMachine in its place.
func (b *builder) lockMachine(e rootEntry) {
	b.addMount(e.Source, e.Path, "", unix.MS_BIND, "")
	b.setAttr(unix.AT_FDCWD, e.Path, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}
