package listen

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// fifoAccess says who may open a FIFO. Its owner can change that by the descriptor, and an ordinary user's
// service has the owner's id.
type fifoAccess struct {
	mode     uint32
	uid, gid uint32
	acl      string // acl(5), as the file system has it; "": none
}

const aclName = "system.posix_acl_access"

func readFIFOAccess(fd int) (a fifoAccess, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return a, os.NewSyscallError("fstat", err)
	}
	a = fifoAccess{mode: st.Mode & 0o7777, uid: st.Uid, gid: st.Gid}
	list := make([]byte, 4096)
	if n, err := unix.Fgetxattr(fd, aclName, list); err == nil {
		a.acl = string(list[:n])
	}
	return a, nil
}

// restore sets it back, and says what it found, "" where nothing has changed.
func (a fifoAccess) restore(fd int) (what string, err error) {
	now, err := readFIFOAccess(fd)
	if err != nil || now == a {
		return "", err
	}
	if now.uid != a.uid || now.gid != a.gid {
		err = os.NewSyscallError("fchown", unix.Fchown(fd, int(a.uid), int(a.gid)))
	}
	if err == nil && now.acl != "" && a.acl == "" {
		err = os.NewSyscallError("fremovexattr", unix.Fremovexattr(fd, aclName))
	} else if err == nil && now.acl != a.acl {
		err = os.NewSyscallError("fsetxattr", unix.Fsetxattr(fd, aclName, []byte(a.acl), 0))
	}
	if err == nil {
		err = os.NewSyscallError("fchmod", unix.Fchmod(fd, a.mode))
	}
	return "the service had changed its mode, owner or access control list; set back", err
}

// isLeft reports whether a FIFO is ours from a run that was killed: its reserve stands beside it, where
// only we could put that. Then its mode is what a service may have made of it.
func (s place) isLeft(id inode) bool { return !s.Foreign() && s.hasInode(s.reserveName(), id) }

// setFIFOAccess gives a FIFO of ours its owner and mode.
func setFIFOAccess(fd int, path string, mode fs.FileMode, who owner) error {
	if who.isGiven() {
		if err := unix.Fchown(fd, who.uid, who.gid); err != nil {
			return &fs.PathError{Op: "chown", Path: path, Err: err}
		}
	}
	if err := unix.Fchmod(fd, uint32(mode)); err != nil {
		return &fs.PathError{Op: "chmod", Path: path, Err: err}
	}
	return nil
}
