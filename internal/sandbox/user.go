package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// Inside is what a program finds inside of itself.
type Inside struct {
	Name     string // of its user
	UID, GID int
	Home     string
	Handed   bool   // it gets sockets by their numbers
	Links    []Link // symbolic ones in the fresh folders
}

// Link is a symbolic link, by its path and where it leads.
type Link struct{ Path, To string }

// listEntries lists what the host's folders do not have, below what the configuration mounts; all are the other entries.
//
// The user's ids have a name in passwd(5) and group(5), as nss-systemd(8) gives one to a dynamic user. The user's home is there,
// empty, where homes are. The folder of sd_booted(3) is there where sockets are handed over: programs ask that before they look for them.
func (in Inside) listEntries(root string, all []rootEntry) (more []rootEntry) {
	named := false
	for _, file := range []struct {
		path string
		id   int
		line string
	}{
		{"/etc/passwd", in.UID, fmt.Sprintf("%s:x:%d:%d:service:%s:/usr/sbin/nologin\n", in.Name, in.UID, in.GID, in.Home)},
		{"/etc/group", in.GID, fmt.Sprintf("%s:x:%d:\n", in.Name, in.GID)},
	} {
		isCovered := slices.ContainsFunc(all, func(e rootEntry) bool { return e.Asked && spec.IsBelow(file.path, e.Path) })
		source := filepath.Join(root, file.path)
		text, ok := readAccounts(source)
		if in.Name == "" || isCovered || !ok || hasField(text, 2, strconv.Itoa(file.id)) || file.path == "/etc/group" && !named && hasField(text, 0, in.Name) {
			continue // a group of the host's by that name is another one
		}
		// Before the others, so that a name that is there too is this user's.
		named = true
		more = append(more, rootEntry{Kind: entryText, Path: file.path, Source: source, text: file.line})
	}
	if home := filepath.Clean(in.Home); in.lacksHome(home, all) {
		more = append(more, rootEntry{Kind: entryTmpfs, Path: home, Mode: 0o755, Size: small, Asked: true})
	}
	if in.Handed {
		more = append(more, rootEntry{Kind: entryFolder, Path: "/run/systemd", Mode: 0o755}, rootEntry{Kind: entryFolder, Path: "/run/systemd/system", Mode: 0o755})
	}
	for _, link := range in.Links {
		more = append(more, rootEntry{Kind: entryLink, Path: link.Path, Source: link.To})
	}
	return more
}

// lacksHome reports whether a home is to be made. What is in another folder is kept somewhere, which the
// configuration says, or is not meant to be there, as /nonexistent.
func (in Inside) lacksHome(home string, all []rootEntry) bool {
	if home != "/root" && (path.Dir(home) != "/home" || home == "/home") {
		return false
	}
	return !slices.ContainsFunc(all, func(e rootEntry) bool { return spec.IsBelow(home, e.Path) })
}

// mostAccounts bounds the files that are copied. Hosts with more users than that have them from elsewhere.
const mostAccounts = 64 << 10

// readAccounts reads a file that is no link, that every user may read, and that is no longer than mostAccounts.
func readAccounts(source string) ([]byte, bool) {
	n, err := fd.OpenLinkless(source, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, false
	}
	f := os.NewFile(uintptr(n), source)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode()&0o004 == 0 {
		return nil, false
	}
	text, err := io.ReadAll(io.LimitReader(f, mostAccounts+1))
	return text, err == nil && len(text) <= mostAccounts
}

// hasField reports whether a line of passwd(5) or group(5) has a value in a field, from 0.
func hasField(text []byte, field int, value string) bool {
	for line := range bytes.Lines(text) {
		if fields := bytes.SplitN(line, []byte(":"), 4); len(fields) == 4 && string(fields[field]) == value {
			return true
		}
	}
	return false
}

// putText lays a copy of a file over it, read-only, that begins with a text. The copy is made here: 1,000 sandboxes that
// stand would each keep the text. Where it cannot be made, there is none.
func (b *builder) putText(e rootEntry) {
	first, name := b.NextDescriptor(), b.AddText("/.activator-text")
	made, end := b.NewLabel(), b.NewLabel()
	b.Do(unix.SYS_OPENAT, vfork.WorkingDirectory, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o444).OnError(end)
	b.Do(unix.SYS_WRITE, uintptr(first), b.AddBytes([]byte(e.text)), uintptr(len(e.text))).OnError(made)
	b.Do(unix.SYS_OPENAT, vfork.WorkingDirectory, b.AddText(e.Path), unix.O_RDONLY|unix.O_CLOEXEC, 0).OnError(made)
	b.Do(unix.SYS_SENDFILE, uintptr(first), uintptr(first+1), 0, mostAccounts).OnError(made)
	b.addMount("/.activator-text", e.Path, "", unix.MS_BIND, "").OnError(made)
	b.setAttr(unix.AT_FDCWD, e.Path, 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOEXEC})
	b.PlaceLabel(made)
	b.Do(unix.SYS_UNLINKAT, vfork.WorkingDirectory, name, 0)
	b.PlaceLabel(end)
	b.SetNextDescriptor(first + 2)
	b.CloseFrom(first)
}
