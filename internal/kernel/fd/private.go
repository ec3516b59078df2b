package fd

import (
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// private reports whether the group that may write a folder is nobody but us: the group
// of a user of the same name, as most distributions make them, without a further
// member. Root's group is root.
func private(gid uint32, path string) bool {
	if gid == 0 {
		return !listed(path)
	}
	return int(gid) == os.Getegid() && alone() && !listed(path)
}

// listed reports whether a folder has an access control list, of which the bits of the
// group do not tell whom it lets in. In a folder of ours the path is as good as a descriptor,
// which getxattr(2) does not take.
func listed(path string) bool {
	_, err := unix.Lgetxattr(path, "system.posix_acl_access", nil)
	return err != unix.ENODATA && err != unix.EOPNOTSUPP
}

// alone looks at group(5) and passwd(5), once.
var alone = sync.OnceValue(func() bool {
	gid := strconv.Itoa(os.Getegid())
	us, err := user.LookupId(strconv.Itoa(os.Geteuid()))
	if err != nil || us.Gid != gid {
		return false
	}
	found := false
	for _, line := range lines("/etc/group") { // name:password:gid:members
		if len(line) < 4 || line[2] != gid {
			continue
		}
		if line[0] != us.Username || line[3] != "" && line[3] != us.Username {
			return false
		}
		found = true
	}
	for _, line := range lines("/etc/passwd") { // name:password:uid:gid:...
		if len(line) > 3 && line[3] == gid && line[2] != us.Uid {
			return false
		}
	}
	return found
})

func lines(path string) (all [][]string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		all = append(all, strings.Split(strings.TrimSpace(line), ":"))
	}
	return all
}
