// Package access asks what we may do at a path, without doing it.
package access

import (
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// CheckMakeIn says why nothing can be made in folder or, where that is missing, the folder
// itself; 0 where neither is certain. access(2).
func CheckMakeIn(folder string) syscall.Errno {
	for {
		err := unix.Faccessat(unix.AT_FDCWD, folder, unix.W_OK|unix.X_OK, unix.AT_EACCESS)
		switch {
		case err == unix.ENOENT && folder != "/" && folder != ".":
			folder = filepath.Dir(folder)
		case (err == nil || err == unix.EACCES) && !isFolder(folder):
			return unix.ENOTDIR
		case err == unix.EACCES, err == unix.EROFS, err == unix.ENOTDIR, err == unix.ELOOP:
			return err.(syscall.Errno) //nolint:errorlint // it is one
		case err == nil && ofKernel(folder):
			return unix.EPERM
		default:
			return 0
		}
	}
}

// ofKernel reports whether a folder is in a file system in which the kernel alone makes
// files, whatever the modes say, to root too.
func ofKernel(folder string) bool {
	var stat unix.Statfs_t
	if unix.Statfs(folder, &stat) != nil {
		return false
	}
	switch int64(stat.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC,
		unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.BINFMTFS_MAGIC, unix.EFIVARFS_MAGIC, unix.BPF_FS_MAGIC:
		return true
	}
	return false
}

func isFolder(path string) bool {
	var stat unix.Stat_t
	return unix.Stat(path, &stat) != nil || stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

// CheckWrite says why a file that is there cannot be written; 0 where that is not certain.
func CheckWrite(path string) syscall.Errno {
	switch err := unix.Faccessat(unix.AT_FDCWD, path, unix.W_OK, unix.AT_EACCESS); err {
	case unix.EACCES, unix.EROFS:
		return err.(syscall.Errno) //nolint:errorlint // it is one
	}
	return 0
}

// HoldsCapability reports whether we have a capability, at least over our own user namespace.
func HoldsCapability(number uint) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&header, &data[0]) == nil && data[number/32].Effective&(1<<(number%32)) != 0
}
