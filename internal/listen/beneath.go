package listen

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bindSocket binds a socket to the path of the place. bind(2) takes no descriptor of a folder,
// and what it is given is the name that the program and its peers are told, so it should be
// the path. Where another user can have that lead elsewhere meanwhile, a thread does it
// that can make sockets in this folder only (Landlock). Without Landlock it stands in
// the folder, and binds the name alone: what is told is not the path then.
func (s place) bindSocket(socket int, path unix.Sockaddr) error {
	if s.Steady() {
		return unix.Bind(socket, path)
	}
	return callOnThread(func() error {
		// Of its own, for the folder it stands in: unshare(2).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		unix.Umask(0)
		err := restrictToFolder(s.FD())
		if err == nil {
			return unix.Bind(socket, path)
		}
		if err := unix.Fchdir(s.FD()); err != nil {
			return os.NewSyscallError("fchdir", err)
		}
		return unix.Bind(socket, &unix.SockaddrUnix{Name: s.Name})
	})
}

// restrictToFolder takes from the calling thread, for good, that it can make a socket's node
// outside of a folder. landlock(7); Linux 5.13, and not where it is switched off.
var restrictToFolder = func(folder int) error {
	// A struct landlock_ruleset_attr as far as the first version of Landlock knows it.
	handled := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SOCK)
	rules, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_create_ruleset", errno)
	}
	defer func() { _ = unix.Close(int(rules)) }()
	here := unix.LandlockPathBeneathAttr{Allowed_access: unix.LANDLOCK_ACCESS_FS_MAKE_SOCK, Parent_fd: int32(folder)}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules, unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&here)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_add_rule", errno)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, rules, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}
