package sandbox

import (
	"golang.org/x/sys/unix"

	"activator/internal/process/vfork"
	"activator/internal/spec"
)

// builder is a call list that fills a new root.
type builder struct {
	*vfork.CallList
	entries []rootEntry
	limits  []spec.Limit
}

// setStep says what the calls that follow are about.
func (b *builder) setStep(step, path string) {
	b.ExplainNext(func(errno unix.Errno) error { return NewError(step, path, errno) })
}

func (b *builder) addMount(source, target, kind string, flags uintptr, options string) vfork.Call {
	return b.Do(unix.SYS_MOUNT, b.AddText(source), b.AddText(target), b.AddText(kind), flags, b.AddText(options))
}

func (b *builder) moveMount(tree int, path string, flags uintptr) {
	b.Do(unix.SYS_MOVE_MOUNT, uintptr(tree), b.AddText(""), vfork.WorkingDirectory, b.AddText(path), flags)
}

func (b *builder) createPoint(name string, folder bool) {
	b.setStep("mount point", name)
	if folder {
		b.Do(unix.SYS_MKDIRAT, vfork.WorkingDirectory, b.AddText(name), 0o755)
		return
	}
	fd := b.Open(unix.SYS_OPENAT, vfork.WorkingDirectory, b.AddText(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	b.CloseFrom(fd)
}

// setAttr is mount_setattr(2).
func (b *builder) setAttr(fd int, path string, flags uint, attr unix.MountAttr) {
	words := b.AddWords(uintptr(attr.Attr_set), uintptr(attr.Attr_clr), uintptr(attr.Propagation), uintptr(attr.Userns_fd))
	b.Do(unix.SYS_MOUNT_SETATTR, uintptr(fd), b.AddText(path), uintptr(flags), words.Address, unix.MOUNT_ATTR_SIZE_VER0)
}
