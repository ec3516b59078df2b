package spawn

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
)

// directoryKind is one of the four: its name, its variable, root's base and an
// ordinary user's, as in systemd.exec(5).
type directoryKind struct {
	name, variable, base string
	users                func() (string, error)
}

var directoryKinds = [...]directoryKind{
	{"state", "STATE_DIRECTORY", "/var/lib", stateHome},
	{"cache", "CACHE_DIRECTORY", "/var/cache", cacheHome},
	{"logs", "LOGS_DIRECTORY", "/var/log", logsHome},
	{"runtime", "RUNTIME_DIRECTORY", "/run", runtimeHome},
}

// directories makes the service's own directories on the host and returns where
// they are seen inside, at the same path, and the variables that say so.
func (b *birth) directories() (mounts []sandbox.Mount, env []string, err error) {
	values := map[string]string{}
	for _, d := range b.spec.Directories {
		at := slices.IndexFunc(directoryKinds[:], func(k directoryKind) bool { return k.name == d.Kind })
		if at < 0 || !filepath.IsLocal(d.Name) || d.Name == "." {
			return nil, nil, &StageError{Step: "directory", Path: d.Name, Cure: "the kind is state, cache, logs or runtime; the name is relative and stays below it"}
		}
		kind := directoryKinds[at]
		base := kind.base
		if os.Geteuid() != 0 {
			if base, err = kind.users(); err != nil {
				return nil, nil, &StageError{Step: "directory", Path: d.Name, Errno: errnoOf(err), Cure: err.Error()}
			}
		}
		path := filepath.Join(base, d.Name)
		if d.Kind == "runtime" {
			b.starter.runtime.hold(path)
			b.folders = append(b.folders, path)
		}
		if err := makeDirectory(base, d.Name, b.id); err != nil {
			return nil, nil, &StageError{Step: "directory", Path: path, Errno: errnoOf(err), Cure: "it must be a folder, not a symbolic link, that we may make and own"}
		}
		mounts = append(mounts, sandbox.Mount{Host: path, Inside: path})
		if values[kind.variable] != "" {
			path = values[kind.variable] + ":" + path
		}
		values[kind.variable] = path
	}
	for _, kind := range directoryKinds {
		if value := values[kind.variable]; value != "" {
			env = append(env, kind.variable+"="+value)
		}
	}
	return mounts, env, nil
}

// makeDirectory makes base/name and gives it to the service. No symbolic link
// is followed below base: the folders in between may be another service's.
func makeDirectory(base, name string, id identity) error {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return err
	}
	folder, err := unix.Open(base, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	for part := range strings.SplitSeq(filepath.Clean(name), "/") {
		err := unix.Mkdirat(folder, part, 0o755)
		next := -1
		if err == nil || err == unix.EEXIST {
			next, err = unix.Openat(folder, part, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		}
		_ = unix.Close(folder)
		if err != nil {
			return os.NewSyscallError("mkdir", err)
		}
		folder = next
	}
	defer func() { _ = unix.Close(folder) }()
	var stat unix.Stat_t
	if err := unix.Fstat(folder, &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if !id.change || int(stat.Uid) == id.uid && int(stat.Gid) == id.gid {
		return nil
	}
	return give(folder, id)
}

// give changes the owner of everything in folder, and of folder itself last: if
// it is interrupted, the next start begins again.
func give(folder int, id identity) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", folder))
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	err = fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		return root.Lchown(path, id.uid, id.gid)
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fchown", unix.Fchown(folder, id.uid, id.gid))
}

// The folders of the XDG base directory specification; logs as systemd has them.

func stateHome() (string, error) { return xdg("XDG_STATE_HOME", ".local/state") }

func cacheHome() (string, error) { return xdg("XDG_CACHE_HOME", ".cache") }

func logsHome() (string, error) {
	state, err := stateHome()
	return filepath.Join(state, "log"), err
}

func runtimeHome() (string, error) {
	if folder := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(folder) {
		return folder, nil
	}
	folder := fmt.Sprintf("/run/user/%d", os.Geteuid())
	if info, err := os.Stat(folder); err != nil || !info.IsDir() {
		return "", fmt.Errorf("XDG_RUNTIME_DIR is not set, and there is no %s: %w", folder, syscall.ENOENT)
	}
	return folder, nil
}

func xdg(variable, below string) (string, error) {
	if folder := os.Getenv(variable); filepath.IsAbs(folder) {
		return folder, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, below), err
}

// runtimeFolders counts who uses the runtime directories, which go with the
// last process that has them.
type runtimeFolders struct {
	mu   sync.Mutex
	used map[string]int
}

func (r *runtimeFolders) hold(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.used == nil {
		r.used = map[string]int{}
	}
	r.used[path]++
}

func (r *runtimeFolders) release(paths []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, path := range paths {
		if r.used[path]--; r.used[path] == 0 {
			delete(r.used, path)
			_ = os.RemoveAll(path)
		}
	}
}
