package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pauseProcess opens the process that keeps a user's namespaces. Every podman command of the user
// enters them, and `podman exec` cannot reach a container in others. If there is no such process
// yet, it is made, as the user's first command would make it. The caller closes it.
func pauseProcess(ctx context.Context, engine string) (*os.File, error) {
	if process := openPause(); process != nil {
		return process, nil
	}
	if _, err := askEngine(ctx, engine, "unshare", "true"); err != nil {
		return nil, err
	}
	if process := openPause(); process != nil {
		return process, nil
	}
	return nil, fmt.Errorf("container: %s keeps no namespaces for this user: %s names no process of that kind; is tmp_dir set in containers.conf?", engine, strings.Join(pausePaths(), " or "))
}

// openPause returns nil if there is no pause process.
func openPause() *os.File {
	for _, path := range pausePaths() {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			continue
		}
		pidfd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		// The number may belong to another process by now: look at it after it has been opened.
		if keepsNamespaces(pid) && unix.PidfdSendSignal(pidfd, 0, nil, 0) == nil {
			return os.NewFile(uintptr(pidfd), "pause process")
		}
		_ = unix.Close(pidfd)
	}
	return nil
}

// keepsNamespaces reports whether a process is in a user namespace that our user owns, and that we
// are not in.
func keepsNamespaces(pid int) bool {
	const ownerUID = 0xb704 // NS_GET_OWNER_UID, ioctl_ns(2)
	var its, own unix.Stat_t
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	if unix.Fstat(fd, &its) != nil || unix.Stat("/proc/self/ns/user", &own) != nil || its.Ino == own.Ino {
		return false
	}
	uid, err := unix.IoctlGetUint32(fd, ownerUID)
	return err == nil && int(uid) == os.Geteuid()
}

// pausePaths are the files in which podman keeps the process's number.
func pausePaths() (paths []string) {
	for _, folder := range runtimeFolders() {
		paths = append(paths, filepath.Join(folder, "libpod/tmp/pause.pid"))
	}
	return paths
}

// runtimeFolders are the folders of which podman takes the first one that exists.
func runtimeFolders() []string {
	if folder := os.Getenv("XDG_RUNTIME_DIR"); folder != "" {
		return []string{folder}
	}
	uid := strconv.Itoa(os.Geteuid())
	return []string{"/run/user/" + uid, filepath.Join(os.TempDir(), "podman-run-"+uid)}
}

// EngineEnviron returns the environment of an engine after [Engine.Prepare]. It tells a user's
// engine, as `podman unshare` does, to use these namespaces.
func EngineEnviron() []string {
	env := questionEnviron()
	if os.Geteuid() != 0 {
		env = append(env, "_CONTAINERS_USERNS_CONFIGURED=done",
			"_CONTAINERS_ROOTLESS_UID="+strconv.Itoa(os.Geteuid()), "_CONTAINERS_ROOTLESS_GID="+strconv.Itoa(os.Getegid()))
	}
	return env
}
