package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/process/vfork"
)

// OpenTrees clones the mounts that p binds, with everything mounted below them,
// as descriptors of mounts that are attached nowhere yet (open_tree(2)), one for
// every bind in order and -1 for an optional one that is missing. The caller
// closes them.
//
// As root this happens before the clone: root reaches a program
// below any user's 0700 folder, the service's own user does not. An ordinary user may not do it
// in the host's mount namespace, which is EPERM; then the child does it, in its own.
func (p *Plan) OpenTrees() ([]int, error) {
	var trees []int
	for _, entry := range p.entries {
		if !entry.isBind() {
			continue
		}
		tree, err := entry.openTree()
		if errors.Is(err, unix.ENOENT) && entry.Optional {
			tree, err = -1, nil
		}
		if err != nil {
			CloseTrees(trees)
			return nil, NewError("open", entry.Source, err)
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

// CloseTrees closes what OpenTrees returned.
func CloseTrees(trees []int) {
	for _, tree := range trees {
		if tree >= 0 {
			_ = unix.Close(tree)
		}
	}
}

// copyTree says how a mount is cloned. Private, because a clone of a shared mount is its
// peer: what were mounted inside would appear on the host.
func (e rootEntry) copyTree() (recursive uint, attr unix.MountAttr) {
	attr = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	switch e.Kind {
	case entryReadOnly:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	case entryDevice:
		// Read-only, a device can be written, but its mode, times and attributes, which are the host's, cannot be set.
		attr.Attr_set = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_RDONLY
		return 0, attr
	}
	return unix.AT_RECURSIVE, attr
}

// openTree clones one mount.
func (e rootEntry) openTree() (int, error) {
	recursive, attr := e.copyTree()
	at, path, flags := unix.AT_FDCWD, e.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive
	if e.real != "" {
		source, err := fd.OpenLinkless(e.real, unix.O_PATH)
		if err != nil {
			return -1, os.NewSyscallError("openat2", err)
		}
		defer func() { _ = unix.Close(source) }()
		at, path, flags = source, "", flags|unix.AT_EMPTY_PATH
	}
	tree, err := unix.OpenTree(at, path, flags)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|recursive, &attr); err != nil {
		_ = unix.Close(tree)
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return tree, nil
}

// openTrees is OpenTrees, done by the child. What is optional is looked for here.
func (b *builder) openTrees(p *Plan) []int {
	var trees []int
	for _, entry := range p.entries {
		if !entry.isBind() {
			continue
		}
		var stat unix.Stat_t
		if entry.Optional && unix.Stat(entry.Source, &stat) == unix.ENOENT {
			trees = append(trees, -1)
			continue
		}
		b.setStep("open", entry.Source)
		recursive, attr := entry.copyTree()
		tree := b.openTree(entry, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
		b.setAttr(tree, "", unix.AT_EMPTY_PATH|recursive, attr)
		trees = append(trees, tree)
	}
	return trees
}

// openTree is Entry.openTree, done by the child. The descriptor that the parent walked
// to is of no use to it: open_tree(2) clones a mount of its own namespace only (EINVAL). But
// a path without links is.
func (b *builder) openTree(e rootEntry, flags uint) int {
	if e.real == "" {
		return b.Open(unix.SYS_OPEN_TREE, vfork.WorkingDirectory, b.AddText(e.Source), uintptr(flags))
	}
	how := b.AddWords(unix.O_PATH|unix.O_CLOEXEC, 0, unix.RESOLVE_NO_SYMLINKS)
	source := b.Open(unix.SYS_OPENAT2, vfork.WorkingDirectory, b.AddText(e.real), how.Address, unix.SizeofOpenHow)
	tree := b.Open(unix.SYS_OPEN_TREE, uintptr(source), b.AddText(""), uintptr(flags|unix.AT_EMPTY_PATH))
	// In the place of source: there are no more descriptors than mounts.
	b.Do(unix.SYS_DUP3, uintptr(tree), uintptr(source), unix.O_CLOEXEC)
	b.CloseFrom(tree)
	return source
}
