package sandbox

import (
	"encoding/binary"
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// What Landlock can by its ABI, landlock(7).
const (
	abiFiles    = 2 // Linux 5.19. The first one refuses every rename to another folder, EXDEV.
	abiTruncate = 3 // Linux 6.2
	abiTCP      = 4 // Linux 6.7
	abiScopes   = 6 // Linux 6.12
)

// landlockABI is the version this kernel has; 0 is none.
var landlockABI = sync.OnceValue(func() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
})

// landlockRules is what is refused by default, and the files where it is allowed after
// all.
type landlockRules struct {
	Files  uint64 // LANDLOCK_ACCESS_FS_*
	Net    uint64 // LANDLOCK_ACCESS_NET_*; there is no exception
	Scoped uint64 // LANDLOCK_SCOPE_*
	Grants []fileGrant
}

// fileGrant allows access to a file, or to a folder and what is below.
type fileGrant struct {
	Path   string // inside
	Access uint64 // LANDLOCK_ACCESS_FS_*
}

// Rights of files, by the ABI that has them. Devices are never made, and so not
// granted anywhere.
const (
	readRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	makeRights = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
	deviceRights = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	writeRights  = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE

	// readerRights are looked for at every open(2) for reading, on the way from the file
	// up to a rule that has them all; where none is handled the kernel does not go there.
	readerRights = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR | unix.LANDLOCK_ACCESS_FS_TRUNCATE
)

// fileRights are those that it matters to refuse, of all that an ABI knows. The first one
// is for those services alone that may get hold of other files, against which nothing else helps, and only
// if nothing but fresh folders is writable: data is renamed from folder to folder.
func fileRights(s spec.Sandbox, abi int, entries []rootEntry) uint64 {
	writable := slices.ContainsFunc(entries, func(e rootEntry) bool { return e.Kind == entryWritable })
	if s.Syscalls == "any" || abi == 0 || abi < abiFiles && (writable || !s.Unmounted) {
		return 0
	}
	rights := uint64(readRights | makeRights | deviceRights | unix.LANDLOCK_ACCESS_FS_WRITE_FILE)
	if abi < abiFiles {
		rights &^= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= abiTruncate {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		rights |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if !s.Unmounted {
		rights &^= readerRights
	}
	return rights
}

// chooseLandlock chooses the second restriction, behind the mounts and behind the filter: another
// mechanism that says the same. Nothing of it needs privilege.
//
// Files: everything that is mounted can be executed, and written is only where the plan
// mounts something writable. What can be read is what is mounted: a rule for that
// would say no more, and cost 350 ns for each file that is opened. So it is only for
// services that may get hold of other files, in a folder that a client passes in. A
// process under such rules cannot mount any more, which syscalls = "any" is for: that
// has none. Network, sealed: no bind and no connect
// of TCP, whatever the namespace of the socket; a supervisor's calls are its own, so
// it still can; the same where only unix sockets may be connected, since that is
// decided before the kernel reads the address again. Scopes, sealed: abstract names
// and signals end where the sandbox does. The scope of names knows no namespaces, and would
// refuse the answer to a relay's.
func chooseLandlock(s spec.Sandbox, abi int, entries []rootEntry) landlockRules {
	var l landlockRules
	if s.Seal && abi >= abiTCP {
		l.Net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	} else if s.Connect == "unix" && abi >= abiTCP {
		l.Net = unix.LANDLOCK_ACCESS_NET_CONNECT_TCP // what it binds is in its own network: the target of a proxy
	}
	if s.Seal && abi >= abiScopes {
		l.Scoped = unix.LANDLOCK_SCOPE_SIGNAL
		if !s.Names {
			l.Scoped |= unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		}
	}
	if l.Files = fileRights(s, abi, entries); l.Files == 0 {
		return l
	}
	l.addGrant("/", readRights)
	l.addGrant("/proc", writeRights)
	l.addGrant("/dev", writeRights|unix.LANDLOCK_ACCESS_FS_IOCTL_DEV)
	for _, entry := range entries {
		switch {
		case entry.Kind == entryTmpfs, entry.Kind == entryWritable && entry.folder:
			l.addGrant(entry.Path, readRights|makeRights|writeRights)
		case entry.Kind == entryWritable:
			l.addGrant(entry.Path, writeRights)
		case entry.Kind == entryReadOnly && entry.folder && s.Unmounted:
			// What is granted at / too, and truncation, which the mount refuses, so that
			// the way up to a rule with all the readerRights is short.
			l.addGrant(entry.Path, readRights|unix.LANDLOCK_ACCESS_FS_TRUNCATE)
		}
	}
	if s.Init { // the reaper, which is the activator's binary and nowhere inside
		l.addGrant("/proc/self/exe", unix.LANDLOCK_ACCESS_FS_EXECUTE|unix.LANDLOCK_ACCESS_FS_READ_FILE)
	}
	return l
}

func (l *landlockRules) addGrant(name string, access uint64) {
	l.Grants = append(l.Grants, fileGrant{Path: path.Clean(name), Access: access & l.Files})
}

// addRestriction adds to s what puts the child, and what comes of it, behind l. It needs
// no_new_privs or CAP_SYS_ADMIN.
func (l *landlockRules) addRestriction(b *builder) {
	if l.Files|l.Net|l.Scoped == 0 {
		return
	}
	b.setStep("landlock", "")
	// Fields past what an older kernel knows may be there if they are zero.
	attr := b.AddWords(uintptr(l.Files), uintptr(l.Net), uintptr(l.Scoped))
	ruleset := b.Open(unix.SYS_LANDLOCK_CREATE_RULESET, attr.Address, uintptr(len(attr.Bytes)), 0)
	for _, g := range l.Grants {
		g.addRule(b, ruleset)
	}
	b.setStep("landlock", "")
	b.Do(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0)
	b.CloseFrom(ruleset)
}

func (g *fileGrant) addRule(b *builder, ruleset int) {
	b.setStep("landlock", g.Path)
	fd := b.NextDescriptor()
	b.Do(unix.SYS_OPENAT, vfork.WorkingDirectory, b.AddText(g.Path), unix.O_PATH|unix.O_CLOEXEC, 0)
	rule := b.NewBuffer(12) // struct landlock_path_beneath_attr, packed
	binary.NativeEndian.PutUint64(rule.Bytes, g.Access)
	binary.NativeEndian.PutUint32(rule.Bytes[8:], uint32(fd))
	b.Do(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, rule.Address, 0)
	b.Do(unix.SYS_CLOSE, uintptr(fd))
}
