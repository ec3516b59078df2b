package sandbox

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTrees clones the mounts that p binds, with everything mounted below them,
// as descriptors of mounts that are attached nowhere yet (open_tree(2)), one for
// every bind in order and -1 for an optional one that is missing. The caller
// closes them.
//
// As root this happens before the clone: a root that is still root reaches a
// program below anybody's 0700 folder, the service's own user does not. An
// ordinary user has no right to it in the host's mount namespace and gets
// ErrNotPrivileged; then the second stage does it, in its own.
func (p *Plan) OpenTrees() ([]int, error) {
	var trees []int
	for _, entry := range p.Entries {
		if !entry.bind() {
			continue
		}
		tree, err := entry.openTree()
		if errors.Is(err, unix.ENOENT) && entry.Optional {
			tree, err = -1, nil
		}
		if err != nil {
			CloseTrees(trees)
			return nil, stepError("open", entry.Source, err)
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

func (e Entry) bind() bool { return e.Kind == ReadOnly || e.Kind == Writable || e.Kind == Device }

// openTree clones one mount. Private, because a clone of a shared mount is its
// peer: what were mounted inside would appear on the host.
func (e Entry) openTree() (int, error) {
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	recursive := uint(unix.AT_RECURSIVE)
	switch e.Kind {
	case ReadOnly:
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	case Device:
		attr.Attr_set = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC
		recursive = 0
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, e.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
	if err != nil {
		return -1, os.NewSyscallError("open_tree", err)
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|recursive, &attr); err != nil {
		_ = unix.Close(tree)
		return -1, os.NewSyscallError("mount_setattr", err)
	}
	return tree, nil
}
