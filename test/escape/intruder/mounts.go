package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done with mounts and namespaces.
func mountProbes() []probe {
	var all []probe
	add := func(name, tries, means, witness string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "namespaces", Tries: tries, Means: means, Witness: witness}, run})
	}
	add("mount", "mount() of a tmpfs on a folder of its own", "mounted", wire.WitnessKernel, mountTmpfs)
	add("fsmount", "fsopen() and fsmount()", "a mount that is nowhere yet", wire.WitnessKernel, detachedMount)
	add("open-tree", "open_tree(OPEN_TREE_CLONE) of /", "a copy of the mounts", wire.WitnessKernel, cloneTree)
	add("remount", "mount_setattr() without read-only on /, /usr and /etc, then a file made there", "the file is made", wire.WitnessKernel, remount)
	add("umount", "umount2(MNT_EXPIRE) of /proc, /dev and /usr: it asks, and unmounts nothing", "the kernel would", wire.WitnessKernel, unmount)
	add("pivot-root", "pivot_root() onto itself: the last check is what refuses", "only the last check refuses", wire.WitnessKernel, pivotRoot)
	add("user-namespace", "clone(CLONE_NEWUSER|CLONE_NEWNS) and a mount in it", "a child that is root in a namespace of its own", wire.WitnessKernel, userNamespace)
	add("user-namespace-clone3", "clone3(CLONE_NEWUSER), whose flags no filter can read", "a child in a new namespace", wire.WitnessKernel, clone3)
	add("unshare", "unshare(CLONE_NEWNS|CLONE_NEWNET) without a new user", "new namespaces", wire.WitnessKernel, unshare)
	add("setns", "setns() to the network of every process and of every descriptor it finds, then connect()", "bytes exchanged with a server in the host's network", wire.WitnessNonce, setns)
	return all
}

func mountTmpfs(*mission) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "intruder")
	if err != nil {
		return "", err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		return "", at("mount", err)
	}
	return "mounted a tmpfs", at("umount", unix.Unmount(dir, 0))
}

func detachedMount(*mission) (string, error) {
	config, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", at("fsopen", err)
	}
	if err := unix.FsconfigCreate(config); err != nil {
		return "", at("fsconfig", err)
	}
	_, err = unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, 0)
	return "made a mount", at("fsmount", err)
}

func cloneTree(*mission) (string, error) {
	_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	return "copied the mounts", at("open_tree", err)
}

func remount(m *mission) (string, error) {
	last := errors.New("no mount")
	for _, dir := range []string{"/", "/usr", "/etc"} {
		attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &attr); err != nil {
			last = at("mount_setattr "+dir, err)
			continue
		}
		path := filepath.Join(dir, "intruder-"+m.Nonce)
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		if err == nil {
			unix.Close(fd)
			return dir + " is writable now", unix.Unlink(path)
		}
		last = at("create in "+dir, err)
	}
	return "", last
}

// unmount: the first umount2 with MNT_EXPIRE only marks, umount2(2): EAGAIN says
// that the next would do it, EBUSY that it only would not yet.
func unmount(*mission) (string, error) {
	last := errors.New("no mount")
	for _, path := range []string{"/proc", "/dev", "/usr"} {
		const expire = 4
		err := unix.Unmount(path, expire)
		if err == unix.EAGAIN || err == unix.EBUSY {
			return "the kernel would unmount " + path + " (" + name(err.(unix.Errno)) + ")", nil
		}
		last = at("umount2 "+path, err)
	}
	return "", last
}

// pivotRoot: the kernel asks for the right first; then / onto / is EBUSY or, on a
// host whose / is an initramfs, EINVAL.
func pivotRoot(*mission) (string, error) {
	err := unix.PivotRoot("/", "/")
	if err == nil || err == unix.EBUSY || err == unix.EINVAL {
		return fmt.Sprintf("only the paths are refused (%v)", err), nil
	}
	return "", at("pivot_root", err)
}

// userNamespace has the kernel make the child in the namespaces: our own threads
// may not change them.
func userNamespace(*mission) (string, error) {
	attr := &syscall.ProcAttr{Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"intruder", "mounter"}, attr)
	if err != nil {
		return "", at("clone or exec", err)
	}
	status, err := wait(pid)
	if err != nil {
		return "", err
	}
	if status.ExitStatus() != 0 {
		return "", at("mount in the new namespace", unix.Errno(status.ExitStatus()))
	}
	return "a child mounted a tmpfs", nil
}

// mountInside is the child of userNamespace.
func mountInside() {
	err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	if err == nil {
		err = unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "size=4k")
	}
	var errno unix.Errno
	errors.As(err, &errno)
	os.Exit(int(errno))
}

func wait(pid int) (unix.WaitStatus, error) {
	var status unix.WaitStatus
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if err != unix.EINTR {
			return status, at("wait4", err)
		}
	}
}

// clone3: the child ends by its first system call, and needs no stack of its own.
func clone3(*mission) (string, error) {
	args := [8]uint64{unix.CLONE_NEWUSER, 0, 0, 0, uint64(unix.SIGCHLD)}
	pid, _, errno := unix.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&args)), unsafe.Sizeof(args), 0)
	if errno != 0 {
		return "", at("clone3", errno)
	}
	if pid == 0 {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	_, err := wait(int(pid))
	return "a child was in a new user namespace", err
}

func unshare(*mission) (string, error) {
	return "new namespaces", at("unshare", unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_NEWNET))
}

// setns tries what leads to another network namespace than ours.
func setns(m *mission) (string, error) {
	last := errors.New("nothing found")
	var found []int
	for fd := range 256 {
		if target, err := unixReadlink(fmt.Sprintf("/proc/self/fd/%d", fd)); err == nil && strings.HasPrefix(target, "net:") {
			found = append(found, fd)
		}
	}
	for _, pid := range others() {
		fd, err := unix.Open("/proc/"+pid+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			last = at("open /proc/"+pid+"/ns/net", err)
			continue
		}
		found = append(found, fd)
	}
	for _, fd := range found {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			last = at("setns", err)
			continue
		}
		how, err := ownSocket("tcp4")(m)
		if err == nil {
			return how, nil
		}
		last = err
	}
	return "", last
}
