package sandbox

import (
	"errors"
	"os"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Build is the stage's half of the sandbox. It runs in the new namespaces with
// the capabilities of [Plan.Ambient], and turns what the process sees into what p
// says; there is no way back. trees is what [Plan.OpenTrees] returned outside, nil to
// open them here. It takes them.
//
// Order: the sources first, while the host's files can still be seen; then the
// new root becomes /, the old one goes, and only then is anything mounted on a
// path, so that no symbolic link can lead out.
func Build(p *Plan, trees []int) error {
	if err := p.system(); err != nil {
		return err
	}
	// The copies of the host's mounts must not hear of what we do, nor we of it.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return stepError("private", "/", err)
	}
	if trees == nil {
		var err error
		if trees, err = p.OpenTrees(); err != nil {
			return err
		}
	}
	defer CloseTrees(trees)
	old := unix.Umask(0)
	defer unix.Umask(old)
	if err := newRoot(); err != nil {
		return err
	}
	b := builder{}
	if err := b.own("/"); err != nil {
		return stepError("root", "/", err)
	}
	for _, entry := range p.Entries {
		tree := -1
		if entry.bind() {
			if tree, trees = trees[0], trees[1:]; tree < 0 {
				continue
			}
		}
		if err := b.put(entry, tree); err != nil {
			return err
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", 0, &attr); err != nil {
		return stepError("read-only", "/", err)
	}
	return nil
}

// system sets what is not in the file system: the network's loopback and the
// host name.
func (p *Plan) system() error {
	if p.Loopback {
		if err := loopbackUp(); err != nil {
			return stepError("network", "lo", err)
		}
	}
	if err := unix.Sethostname([]byte(p.Hostname)); err != nil {
		return stepError("hostname", p.Hostname, err)
	}
	return nil
}

// loopbackUp brings lo up; the kernel gives it 127.0.0.1 and ::1 itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel with only IPv6; netdevice(7) takes any socket
		fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo))
}

// newRoot makes an empty tmpfs with a fresh /proc the root and lets go of the
// old one. A proc can only be mounted where one is fully visible already, so it
// comes before the old root goes (mount_too_revealing in fs/namespace.c).
func newRoot() error {
	root, err := newTmpfs("0755")
	if err != nil {
		return stepError("root", "tmpfs", err)
	}
	defer func() { _ = unix.Close(root) }()
	// Any place does, and / always exists; we get in by the descriptor.
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return stepError("root", "/", os.NewSyscallError("move_mount", err))
	}
	if err := unix.Fchdir(root); err != nil {
		return stepError("root", "/", os.NewSyscallError("fchdir", err))
	}
	if err := unix.Mkdir("proc", 0o555); err != nil {
		return stepError("root", "/proc", os.NewSyscallError("mkdir", err))
	}
	if err := unix.Mount("proc", "proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return stepError("mount", "/proc", os.NewSyscallError("mount", err))
	}
	// pivot_root(2): with "." twice the old root ends up on top of the new one.
	if err := unix.PivotRoot(".", "."); err != nil {
		return stepError("pivot", "/", os.NewSyscallError("pivot_root", err))
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return stepError("unmount", "the host's root", os.NewSyscallError("umount2", err))
	}
	if err := unix.Chdir("/"); err != nil {
		return stepError("root", "/", os.NewSyscallError("chdir", err))
	}
	return nil
}

func newTmpfs(mode string) (int, error) {
	config, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer func() { _ = unix.Close(config) }()
	for _, option := range [][2]string{{"source", "tmpfs"}, {"mode", mode}} {
		if err := unix.FsconfigSetString(config, option[0], option[1]); err != nil {
			return -1, os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(config); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(config, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	return root, os.NewSyscallError("fsmount", err)
}

// builder fills the new root.
type builder struct {
	devices []uint64 // of the tmpfs's we made: only there is anything created
}

func (b *builder) own(path string) error {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return os.NewSyscallError("stat", err)
	}
	b.devices = append(b.devices, stat.Dev)
	return nil
}

func (b *builder) put(e Entry, tree int) error {
	var err error
	switch e.Kind {
	case Folder:
		err = os.NewSyscallError("mkdir", unix.Mkdir(e.Path, e.Mode))
	case Link:
		err = os.NewSyscallError("symlink", unix.Symlink(e.Source, e.Path))
	case Tmpfs:
		return b.tmpfs(e)
	case Cover:
		if err := unix.Mount("tmpfs", e.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_RDONLY, "mode=0555"); err != nil {
			return stepError("mount", e.Path, os.NewSyscallError("mount", err))
		}
		return nil
	default:
		return b.attach(e, tree)
	}
	if err != nil {
		return stepError("root", e.Path, err)
	}
	return nil
}

func (b *builder) tmpfs(e Entry) error {
	if err := b.mountPoint(e, true); err != nil {
		return err
	}
	options := "mode=0755"
	if e.Mode == 0o1777 {
		options = "mode=1777"
	}
	if e.Size != 0 {
		// Files that are empty take memory too, about a kilobyte.
		options += ",size=" + strconv.FormatUint(e.Size, 10) + ",nr_inodes=" + strconv.FormatUint(e.Size>>12, 10)
	}
	err := os.NewSyscallError("mount", unix.Mount("tmpfs", e.Path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options))
	if err == nil {
		err = b.own(e.Path)
	}
	if err != nil {
		return stepError("mount", e.Path, err)
	}
	return nil
}

// attach puts a tree at its path.
func (b *builder) attach(e Entry, tree int) error {
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return stepError("mount", e.Path, os.NewSyscallError("fstat", err))
	}
	if err := b.mountPoint(e, stat.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	err := unix.MoveMount(tree, "", unix.AT_FDCWD, e.Path, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
	if err != nil {
		return stepError("mount", e.Path, os.NewSyscallError("move_mount", err))
	}
	return nil
}

// mountPoint makes sure that something stands at e's path to mount on.
func (b *builder) mountPoint(e Entry, folder bool) error {
	if e.Asked {
		var stat unix.Stat_t
		if unix.Stat(e.Path, &stat) == nil {
			return nil
		}
		if err := b.parents(path.Dir(e.Path)); err != nil {
			return err
		}
		if err := b.mayCreate(e.Path); err != nil {
			return err
		}
	}
	if err := create(e.Path, folder); err != nil {
		return stepError("mount point", e.Path, err)
	}
	return nil
}

// parents makes the folders down to folder that are missing.
func (b *builder) parents(folder string) error {
	var stat unix.Stat_t
	if folder == "/" || unix.Stat(folder, &stat) == nil {
		return nil
	}
	if err := b.parents(path.Dir(folder)); err != nil {
		return err
	}
	if err := b.mayCreate(folder); err != nil {
		return err
	}
	if err := create(folder, true); err != nil {
		return stepError("mount point", folder, err)
	}
	return nil
}

// mayCreate refuses to create anything in what is the host's: a folder that is
// bound writable would keep it for ever, a read-only one cannot.
func (b *builder) mayCreate(name string) error {
	var stat unix.Stat_t
	folder := path.Dir(name)
	if err := unix.Stat(folder, &stat); err != nil {
		return stepError("mount point", folder, os.NewSyscallError("stat", err))
	}
	if !slices.Contains(b.devices, stat.Dev) {
		return &StepError{Step: "mount point", Path: name, Errno: unix.ENOENT,
			Cure: "create it in " + folder + " on the host, or mount at a path outside of it"}
	}
	return nil
}

func create(name string, folder bool) error {
	if folder {
		return os.NewSyscallError("mkdir", unix.Mkdir(name, 0o755))
	}
	fd, err := unix.Open(name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	return os.NewSyscallError("close", unix.Close(fd))
}
