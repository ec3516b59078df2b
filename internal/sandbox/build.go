package sandbox

import (
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// Build adds to s what turns the child's namespaces into what p says; there is no way
// back. The child has the capabilities of [Plan.Capabilities]. trees is what [Plan.OpenTrees]
// returned, as the child has it, nil to have it do that itself; then they are closed at
// the end.
//
// Order: the sources first, while the host's files can still be seen; then the
// new root becomes /, the old one goes, and only then is anything mounted on a
// path, so that no symbolic link can lead out.
func (p *Plan) Build(s *vfork.CallList, trees []int) {
	b, first := builder{CallList: s, entries: p.entries, limits: p.limits}, s.NextDescriptor()
	b.setStep("hostname", p.hostname)
	// Podman's default filter refuses it where it lets all else pass. The name is
	// then the container's.
	b.Do(unix.SYS_SETHOSTNAME, b.AddText(p.hostname), uintptr(len(p.hostname))).IgnoreErrors(unix.EPERM)
	b.setStep("clone", "")
	b.Do(unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	// The copies of the host's mounts must not hear of what we do, nor we of it.
	b.setStep("private", "/")
	b.addMount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if trees == nil {
		trees = b.openTrees(p)
	}
	b.Do(unix.SYS_UMASK, 0)
	b.newRoot()
	for _, entry := range p.entries {
		tree := -1
		if entry.isBind() {
			tree, trees = trees[0], trees[1:]
			if tree < 0 {
				continue
			}
		}
		b.putEntry(entry, tree)
	}
	b.setStep("read-only", "/")
	b.setAttr(unix.AT_FDCWD, "/", 0, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	b.CloseFrom(first)
}

// LoopbackUp adds to s what brings lo up in a network of its own, [CloneFlags]; the
// kernel gives it 127.0.0.1 and ::1 itself. It needs neither a user nor a plan.
func LoopbackUp(s *vfork.CallList) {
	b := builder{CallList: s}
	b.setStep("network", "lo")
	only6, made := b.NewLabel(), b.NewLabel()
	fd := b.NextDescriptor()
	b.Do(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).
		OnZero(made).OnPositive(made).OnError(only6, unix.EAFNOSUPPORT)
	b.PlaceLabel(only6) // a kernel with only IPv6; netdevice(7) takes any socket
	b.Open(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	b.PlaceLabel(made)
	request := b.NewBuffer(40) // struct ifreq
	copy(request.Bytes, "lo")
	request.Bytes[unix.IFNAMSIZ] = unix.IFF_UP | unix.IFF_RUNNING
	b.Do(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, request.Address)
	b.CloseFrom(fd)
}

// newRoot makes an empty tmpfs with a fresh /proc the root and lets go of the
// old one. A proc can only be mounted where one is fully visible already, so it
// comes before the old root goes (mount_too_revealing in fs/namespace.c).
func (b *builder) newRoot() {
	config := b.NextDescriptor()
	b.setStep("root", "tmpfs")
	root := b.newTmpfs("0755")
	// Any place does, and / always exists; we get in by the descriptor.
	b.setStep("root", "/")
	b.moveMount(root, "/", unix.MOVE_MOUNT_F_EMPTY_PATH)
	b.Do(unix.SYS_FCHDIR, uintptr(root))
	b.setStep("root", "/proc")
	b.Do(unix.SYS_MKDIRAT, vfork.WorkingDirectory, b.AddText("proc"), 0o555)
	b.setStep("mount", "/proc")
	b.addMount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.limitNamespace()
	// pivot_root(2): with "." twice the old root ends up on top of the new one.
	b.setStep("pivot", "/")
	dot := b.AddText(".")
	b.Do(unix.SYS_PIVOT_ROOT, dot, dot)
	b.setStep("unmount", "the host's root")
	b.Do(unix.SYS_UMOUNT2, dot, unix.MNT_DETACH)
	b.setStep("root", "/")
	b.Do(unix.SYS_CHDIR, b.AddText("/"))
	b.CloseFrom(config)
}

// newTmpfs opens a configuration, and after it the mount that it returns.
func (b *builder) newTmpfs(mode string) int {
	kind := b.AddText("tmpfs")
	config := uintptr(b.Open(unix.SYS_FSOPEN, kind, unix.FSOPEN_CLOEXEC))
	b.Do(unix.SYS_FSCONFIG, config, unix.FSCONFIG_SET_STRING, b.AddText("source"), kind, 0)
	b.Do(unix.SYS_FSCONFIG, config, unix.FSCONFIG_SET_STRING, b.AddText("mode"), b.AddText(mode), 0)
	b.Do(unix.SYS_FSCONFIG, config, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	return b.Open(unix.SYS_FSMOUNT, config, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
}

// putEntry puts an entry at its path; a bind is a tree.
func (b *builder) putEntry(e rootEntry, tree int) {
	b.setStep("root", e.Path)
	switch e.Kind {
	case entryFolder:
		b.Do(unix.SYS_MKDIRAT, vfork.WorkingDirectory, b.AddText(e.Path), uintptr(e.Mode))
	case entryLink:
		b.Do(unix.SYS_SYMLINKAT, b.AddText(e.Source), vfork.WorkingDirectory, b.AddText(e.Path))
	case entryTmpfs:
		b.mountPoint(e, true)
		b.setStep("mount", e.Path)
		b.addMount("tmpfs", e.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, e.tmpfsOptions())
	case entryCover:
		b.setStep("mount", e.Path)
		b.addMount("tmpfs", e.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0555")
	case entryTerminals:
		b.mountTerminals(e.Path)
	case entryText:
		b.putText(e)
	case entryMachine:
		b.setStep("mount", e.Path)
		b.lockMachine(e)
	default:
		b.mountPoint(e, e.folder)
		b.setStep("mount", e.Path)
		b.moveMount(tree, e.Path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	}
}

// mountPoint makes sure that something stands at e's path to mount on.
func (b *builder) mountPoint(e rootEntry, folder bool) {
	if !e.Asked {
		b.createPoint(e.Path, folder)
		return
	}
	there := b.NewLabel()
	b.ifThere(e.Path, there)
	b.createParents(path.Dir(e.Path))
	if b.mayCreate(e.Path) {
		b.createPoint(e.Path, folder)
	}
	b.PlaceLabel(there)
}

// ifThere goes on at l if something stands at the path.
func (b *builder) ifThere(path string, l vfork.Label) {
	b.Do(unix.SYS_FACCESSAT, vfork.WorkingDirectory, b.AddText(path), unix.F_OK).OnZero(l).IgnoreErrors()
}

// createParents makes the folders down to folder that are missing.
func (b *builder) createParents(folder string) {
	if folder == "/" {
		return
	}
	there := b.NewLabel()
	b.ifThere(folder, there)
	b.createParents(path.Dir(folder))
	if b.mayCreate(folder) {
		b.createPoint(folder, true)
	}
	b.PlaceLabel(there)
}

// mayCreate refuses to create anything in what is the host's: a folder that is
// bound writable would keep it for ever, a read-only one cannot. What is ours has no links
// but those we make, so that a path says where it leads.
func (b *builder) mayCreate(name string) bool {
	folder := b.followLinks(path.Dir(name))
	nearest := rootEntry{Kind: entryTmpfs, Path: "/"}
	for _, e := range b.entries {
		if e.Kind != entryFolder && spec.IsBelow(folder, e.Path) && len(e.Path) > len(nearest.Path) {
			nearest = e
		}
	}
	if nearest.Kind == entryTmpfs {
		return true
	}
	b.FailWith(refusePoint(name))
	return false
}

// followLinks follows the links that we make.
func (b *builder) followLinks(folder string) string {
	for range b.entries { // more steps are a loop, which no folder stands in
		at := slices.IndexFunc(b.entries, func(e rootEntry) bool { return e.Kind == entryLink && spec.IsBelow(folder, e.Path) })
		if at < 0 {
			break
		}
		link := b.entries[at]
		target := link.Source
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(link.Path), target)
		}
		folder = path.Join(target, strings.TrimPrefix(folder, link.Path))
	}
	return folder
}

// mountTerminals mounts pseudoterminals. There are 3,072 for all such mounts of the host (kernel.pty of sysctl), so each has a
// limit: an accepting service has 64 of them. A kernel without them has none.
func (b *builder) mountTerminals(path string) {
	b.createPoint(path, true)
	b.setStep("mount", path)
	b.addMount("devpts", path, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,max=16").IgnoreErrors()
}
