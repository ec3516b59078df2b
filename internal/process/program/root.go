package program

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
)

// ListCandidates is what a program may be, as execvp(3) looks for it in the PATH of env.
func ListCandidates(name string, env []string) (names []string) {
	if strings.Contains(name, "/") {
		return []string{name}
	}
	for _, folder := range filepath.SplitList(pathOf(env)) {
		if filepath.IsAbs(folder) { // the working directory is no place for programs
			names = append(names, folder+"/"+name)
		}
	}
	return names
}

func pathOf(env []string) (path string) {
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	return path
}

// Root is what a process sees of the file system, or what it will see.
type Root struct {
	Path string        // of a running process's root
	View *sandbox.View // instead of Path
	Dir  string        // the working directory; "": /
}

// absolutePath is a path inside from the root.
func (r Root) absolutePath(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return r.Dir + "/" + name
}

// OpenFile opens a file as the process would see it, links and all.
func (r Root) OpenFile(name string, flags uint64) (*os.File, error) {
	if r.View != nil {
		return r.View.Open(name, flags)
	}
	if r.Path == "/" { // we are inside ourselves, where openat2(2) may be refused
		found, err := unix.Open(name, int(flags)|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("open", err)
		}
		return os.NewFile(uintptr(found), name), nil
	}
	root, err := unix.Open(r.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	defer func() { _ = unix.Close(root) }()
	found, err := fd.OpenInRoot(root, name, int(flags))
	if err != nil {
		return nil, os.NewSyscallError("openat2", err)
	}
	return os.NewFile(uintptr(found), name), nil
}

// statFile is what stands at a path.
func (r Root) statFile(name string) (stat unix.Stat_t, err error) {
	f, err := r.OpenFile(name, unix.O_PATH)
	if err != nil {
		return stat, err
	}
	defer func() { _ = f.Close() }()
	err = fd.Control(f, func(fd int) error { return unix.Fstat(fd, &stat) })
	return stat, err
}

func (r Root) isFile(name string) bool {
	stat, err := r.statFile(name)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG
}

func (r Root) isExecutable(name string) bool {
	stat, err := r.statFile(name)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Mode&0o111 != 0
}
