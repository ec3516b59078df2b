package fd

import (
	"os"
	"slices"
	"sync"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// isPrivate reports whether the group that may write a folder is ours alone: the group
// of a user of the same name, as most distributions make them, without a further
// member. Root's group is root.
func isPrivate(gid uint32, path string) bool {
	if gid == 0 {
		return !hasACL(path)
	}
	return int(gid) == os.Getegid() && alone() && !hasACL(path)
}

// hasACL reports whether a folder has an access control list, of which the bits of the
// group do not tell which users it lets in. In a folder of ours the path is as good as a descriptor,
// which getxattr(2) does not take.
func hasACL(path string) bool {
	_, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return err != unix.ENODATA && err != unix.EOPNOTSUPP
}

// alone looks at group(5) and passwd(5), once.
var alone = sync.OnceValue(func() bool {
	uid, gid := os.Geteuid(), os.Getegid()
	us, err := user.LookupUid(uid)
	if err != nil || us.Gid != gid {
		return false
	}
	groups, err := user.ParseGroupFileFilter("/etc/group", func(g user.Group) bool { return g.Gid == gid })
	if err != nil || len(groups) == 0 {
		return false
	}
	for _, g := range groups {
		if g.Name != us.Name || slices.ContainsFunc(g.List, func(member string) bool { return member != us.Name }) {
			return false
		}
	}
	others, err := user.ParsePasswdFileFilter("/etc/passwd", func(u user.User) bool { return u.Gid == gid && u.Uid != uid })
	return err == nil && len(others) == 0
})
