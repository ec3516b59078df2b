package container

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// house is a tmpfs over the engine's own folder, in our mount namespace only:
// everything the engine writes is in it, and the folder itself, with the
// images, is seen one level below.
type house string

func (h house) images() string  { return filepath.Join(string(h), "images") }
func (h house) root() string    { return filepath.Join(string(h), "root") }
func (h house) tmp() string     { return filepath.Join(string(h), "tmp") }
func (h house) runtime() string { return filepath.Join(string(h), "runtime") }
func (h house) upper() string   { return filepath.Join(string(h), "upper") }
func (h house) work() string    { return filepath.Join(string(h), "work") }
func (h house) sources() string { return filepath.Join(string(h), "sources") }

// run is in another tmpfs of ours: podman takes at most 50 bytes, and homes may have
// long names.
func (h house) run() string { return "/dev/shm/run" }

// source is where one of the sources is mounted.
func (h house) source(i int) string { return filepath.Join(h.sources(), strconv.Itoa(i)) }

// enter makes the mounts of the namespace we are the first process of.
func enter(store Store, sources []string) error {
	// The host's later mounts come in, ours do not go out.
	if err := mount("none", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return err
	}
	if err := mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("%w%s", err, cureProc(err))
	}
	// crun refuses a host whose controllers are split between both versions
	// ("hybrid"); of this view it is none. We use no group of it.
	if err := mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if store.Root == "" {
		return nil
	}
	// The engine's locks: shared with other instances they would be held for
	// ever by one that was killed.
	if err := mount("shm", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"); err != nil {
		return err
	}
	trees, err := openSources(sources)
	if err != nil {
		return err
	}
	if err := house(store.Root).build(store.Driver); err != nil {
		return err
	}
	return house(store.Root).mountSources(trees)
}

// tree is a mount that is attached nowhere yet.
type tree struct {
	fd     int
	folder bool
}

// openSources clones the mounts of the sources, before the house stands over one of them. No
// link is followed.
func openSources(paths []string) (trees []tree, err error) {
	for _, path := range paths {
		source, err := fd.OpenLinkless(path, unix.O_PATH)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		var stat unix.Stat_t
		if err := unix.Fstat(source, &stat); err != nil {
			return nil, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		clone, err := unix.OpenTree(source, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
		}
		_ = unix.Close(source)
		trees = append(trees, tree{clone, stat.Mode&unix.S_IFMT == unix.S_IFDIR})
	}
	return trees, nil
}

// mountSources attaches them.
func (h house) mountSources(trees []tree) error {
	for i, t := range trees {
		path := h.source(i)
		err := os.MkdirAll(path, 0o700)
		if !t.folder {
			err = errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600))
		}
		if err != nil {
			return err
		}
		if err := unix.MoveMount(t.fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return &os.PathError{Op: "move_mount", Path: path, Err: err}
		}
		_ = unix.Close(t.fd)
	}
	return nil
}

func cureProc(err error) string {
	if errors.Is(err, unix.EPERM) {
		return ": parts of /proc are masked here, as in a container: run it with --security-opt unmask=ALL"
	}
	return ""
}

func (h house) build(driver string) error {
	images, err := unix.OpenTree(unix.AT_FDCWD, string(h), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: string(h), Err: err}
	}
	defer func() { _ = unix.Close(images) }()
	if err := mount("activator", string(h), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700"); err != nil {
		return err
	}
	for _, dir := range []string{h.images(), h.root(), h.run(), h.tmp(), h.runtime(), h.upper(), h.work()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := unix.MoveMount(images, "", unix.AT_FDCWD, h.images(), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: h.images(), Err: err}
	}
	if driver != "vfs" {
		return h.keepBackend()
	}
	return h.copyOnWrite()
}

// keepBackend tells the engine in its fresh root what the user's own root says of
// the network backend: of a root without that record, but with images, podman
// takes it that it was CNI's, and complains of plugins that need not be there.
func (h house) keepBackend() error {
	const record = "defaultNetworkBackend"
	backend, err := os.ReadFile(filepath.Join(h.images(), record))
	if errors.Is(err, os.ErrNotExist) {
		return nil // an engine before 4.0 keeps none
	}
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(h.root(), record), backend, 0o600)
}

// copyOnWrite gives the vfs driver, which knows no read-only stores, a root that
// has everything the user's store has and keeps changes to itself.
func (h house) copyOnWrite() error {
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", h.images(), h.upper(), h.work())
	// In a user namespace overlayfs keeps its marks in attributes that users may
	// write, Linux 5.11.
	if !initialUserNamespace() {
		options += ",userxattr"
	}
	if err := mount("overlay", h.root(), "overlay", 0, options); err != nil {
		return err
	}
	// The containers outside are no business of ours.
	return os.RemoveAll(filepath.Join(h.root(), "libpod"))
}

// initialUserNamespace reports whether ids here are the machine's:
// user_namespaces(7) describes the map of the first namespace.
func initialUserNamespace() bool {
	var inside, outside, count uint64
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return true
	}
	_, err = fmt.Sscan(string(text), &inside, &outside, &count)
	return err == nil && count == 1<<32-1
}

func mount(source, target, fstype string, flags uintptr, options string) error {
	if err := unix.Mount(source, target, fstype, flags, options); err != nil {
		return &os.PathError{Op: "mount", Path: target, Err: err}
	}
	return nil
}
