package usernotif

import (
	"slices"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/behalf"
	"activator/internal/kernel/fd"
)

// A service that sees further users has no right over them, and may give them nothing: that takes
// CAP_CHOWN. In its own directories we give them what is the service's. A call that is about nobody else is the kernel's.

// ownerCall says which arguments of a call are what, counted from 1; 0: none is.
type ownerCall struct {
	path     pathCall // without a path it is about the descriptor
	uid, gid int
	flags    int
	noFollow bool
}

// changeOwner answers chown(2) and its kin.
func (s *Supervisor) changeOwner(n notification, c ownerCall) verdict {
	to := owner{int32(n.Args[c.uid-1]), int32(n.Args[c.gid-1])}
	o := s.policy.Owners
	if !slices.Contains(o.UIDs, int(to.uid)) && !slices.Contains(o.GIDs, int(to.gid)) {
		return verdict{pass: true}
	}
	ids, err := behalf.IDsOf(int(n.PID))
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	file, err := openNamed(n, c, ids)
	if err != nil {
		return verdict{errno: errnoOf(err)}
	}
	defer func() { _ = unix.Close(file) }()
	if !s.isValid(n.ID) {
		return verdict{errno: unix.EINTR}
	}
	if errno, done := s.mayGive(file, to, ids); errno != 0 || done {
		return verdict{errno: errno}
	}
	return verdict{errno: errnoOf(unix.Fchownat(file, "", int(to.uid), int(to.gid), unix.AT_EMPTY_PATH))}
}

// owner is whom a file is given to; -1: it stays.
type owner struct{ uid, gid int32 }

// mayGive says why a service may not give a file to others, or that it has been given to them: what is the service's own, in
// a directory of its own, to its own users and groups and to those that it sees.
func (s *Supervisor) mayGive(file int, to owner, ids behalf.IDs) (errno unix.Errno, done bool) {
	o := s.policy.Owners
	var stat unix.Statx_t
	if err := unix.Statx(file, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID|unix.STATX_BASIC_STATS, &stat); err != nil {
		return errnoOf(err), false
	}
	isOf := func(id int32, is uint32, own []int, others []int) bool {
		return id == -1 || uint32(id) == is || slices.Contains(own, int(id)) || slices.Contains(others, int(id))
	}
	switch {
	case !slices.Contains(o.Mounts, stat.Mnt_id):
		return unix.EPERM, false
	case stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 && to.uid != -1 && uint32(to.uid) != stat.Uid:
		return unix.EPERM, false // the directory itself: the next start would give the service all that is theirs in it
	case (to.uid == -1 || uint32(to.uid) == stat.Uid) && (to.gid == -1 || uint32(to.gid) == stat.Gid):
		return 0, true
	case int(stat.Uid) != ids.UID, !isOf(to.uid, stat.Uid, []int{ids.UID}, o.UIDs), !isOf(to.gid, stat.Gid, append([]int{ids.GID}, ids.Groups...), o.GIDs):
		return unix.EPERM, false
	}
	return 0, false
}

// openNamed opens, as the service may, what a call is about, with O_PATH or as the service has it. The caller closes it.
func openNamed(n notification, c ownerCall, ids behalf.IDs) (int, error) {
	if c.path.path == 0 {
		return takeDescriptor(n.PID, int(int32(n.Args[0])))
	}
	flags := uint64(0)
	if c.flags > 0 {
		flags = n.Args[c.flags-1]
	}
	text, ok := copyText(n.PID, n.Args[c.path.path-1])
	switch {
	case !ok:
		return -1, unix.EFAULT
	case text == "" && flags&unix.AT_EMPTY_PATH != 0 && c.path.folder > 0:
		return takeDescriptor(n.PID, int(int32(n.Args[c.path.folder-1])))
	}
	at, ok := makeAbsolute(n, c.path, text)
	if !ok {
		return -1, unix.ENOENT
	}
	root, err := openRootOf(n.PID)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(root) }()
	how := unix.O_PATH
	if c.noFollow || flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how |= unix.O_NOFOLLOW
	}
	file := -1
	err = ids.Do(func() (err error) {
		file, err = fd.OpenInRoot(root, at, how)
		return err
	})
	return file, err
}
