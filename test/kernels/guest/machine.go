package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"activator/test/kernels/plan"

	"golang.org/x/sys/unix"
)

// uid of the ordinary user, and of its group.
const uid = 1000

// enterRoot copies the first file system, which pivot_root(2) cannot leave, to a
// tmpfs, and goes on there.
func enterRoot() error {
	const root = "/newroot"
	if err := errors.Join(os.Mkdir(root, 0o755), unix.Mount("root", root, "tmpfs", 0, "mode=0755,size=90%")); err != nil {
		return err
	}
	err := filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == root || path == "/dev":
			return filepath.SkipDir
		case path == "/":
			return nil
		}
		return moveEntry(path, root+path, d)
	})
	if err != nil {
		return err
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	if err := errors.Join(unix.Chroot("."), os.Chdir("/")); err != nil {
		return err
	}
	return os.NewSyscallError("execve", unix.Exec("/init", []string{"machine"}, os.Environ()))
}

// moveEntry copies a file to another file system and takes it away here: both are
// memory.
func moveEntry(from, to string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	switch {
	case d.IsDir():
		return os.Mkdir(to, info.Mode().Perm())
	case d.Type() == fs.ModeSymlink:
		where, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(where, to)
	}
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, text, info.Mode().Perm()), os.Remove(from))
}

// runMachine is the rest of the first process's life. The machine ends with it.
func runMachine() {
	if err := runUsers(); err != nil {
		fmt.Println(plan.Record{Step: "machine", Said: []string{err.Error()}}.Format())
	}
	fmt.Println(plan.Over())
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // the kernel panics when its first process ends
}

func runUsers() error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	if err := layFiles(p); err != nil {
		return err
	}
	for _, user := range []string{plan.Root, plan.User} {
		if err := startUser(user); err != nil {
			return fmt.Errorf("%s: %w", user, err)
		}
	}
	return nil
}

// layFiles mounts what a machine has mounted and sets what the plan wants.
func layFiles(p plan.Plan) error {
	proc, tmp := "", uintptr(unix.MS_NOSUID|unix.MS_NODEV)
	if p.ProcHidden {
		proc = "hidepid=2"
	}
	if p.TmpNoExec {
		tmp |= unix.MS_NOEXEC
	}
	for _, m := range []struct {
		kind, at, options string
		flags             uintptr
	}{
		{"proc", "/proc", proc, unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", "", unix.MS_NOSUID},
		{"devpts", "/dev/pts", "ptmxmode=0666,mode=0620", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/tmp", "mode=1777", tmp},
	} {
		if err := errors.Join(os.MkdirAll(m.at, 0o755), unix.Mount(m.kind, m.at, m.kind, m.flags, m.options)); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	// Every process is sent to the end of the machine's console, and no service
	// is to have it as its terminal.
	runtime := fmt.Sprintf("/run/user/%d", uid)
	if err := errors.Join(os.MkdirAll(runtime, 0o700), os.Chown(runtime, uid, uid),
		os.MkdirAll("/home/user", 0o755), os.Chown("/home/user", uid, uid), os.MkdirAll("/root", 0o700),
		os.MkdirAll("/var/tmp", 0o777), os.Chmod("/var/tmp", 0o777|os.ModeSticky)); err != nil {
		return err
	}
	script := "busybox --install -s /usr/bin; busybox depmod $(uname -r); ip link set lo up; modprobe dummy; ip addr add 192.0.2.1/24 dev dummy0; ip link set dummy0 up"
	if out, err := command(script).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", script, err, out)
	}
	for path, value := range p.Sysctl {
		if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
			return err
		}
	}
	return nil
}

func command(script string) *exec.Cmd {
	c := exec.Command("/usr/bin/busybox", "sh", "-c", script)
	c.Env = environment(plan.Root)
	return c
}

// environment is what a login would give.
func environment(user string) []string {
	home, runtime := "/root", "/run"
	if user != plan.Root {
		home, runtime = "/home/user", fmt.Sprintf("/run/user/%d", uid)
	}
	return []string{"PATH=/usr/bin:/usr/sbin:/bin:/sbin", "HOME=" + home, "USER=" + user, "XDG_RUNTIME_DIR=" + runtime, "LANG=C.UTF-8",
		"ACTIVATOR_BIN=" + filepath.Join(plan.Home, "bin")}
}

// startUser runs the steps as a user and reaps whatever else is orphaned
// meanwhile.
func startUser(user string) error {
	attr := &os.ProcAttr{Dir: plan.Home, Env: environment(user), Files: []*os.File{nil, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Setsid: true}}
	if user != plan.Root {
		attr.Sys.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	attr.Files[0] = null
	process, err := os.StartProcess("/init", []string{"guest", "run", user}, attr)
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return os.NewSyscallError("wait4", err)
		case pid == process.Pid && status.ExitStatus() != 0:
			return fmt.Errorf("ended with %v", describe(status))
		case pid == process.Pid:
			return nil
		}
	}
}

func describe(status unix.WaitStatus) string {
	if status.Signaled() {
		return "signal " + strings.ToUpper(status.Signal().String())
	}
	return fmt.Sprintf("exit code %d", status.ExitStatus())
}
