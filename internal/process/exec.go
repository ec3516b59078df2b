package process

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
)

// listCandidates is what a program may be, as execvp(3) looks for it in the PATH of env.
func listCandidates(name string, env []string) (names []string) {
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

// inside is what a process sees, by the path of its root; or what it will see.
type inside struct {
	root string
	view *sandbox.View // instead of root
	dir  string        // the working directory; "": /
}

// absolutePath is a path inside from the root.
func (i inside) absolutePath(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return i.dir + "/" + name
}

// openFile opens a file as the process would see it, links and all.
func (i inside) openFile(name string, flags uint64) (*os.File, error) {
	if i.view != nil {
		return i.view.Open(name, flags)
	}
	if i.root == "/" { // we are inside ourselves, where openat2(2) may be refused
		found, err := unix.Open(name, int(flags)|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("open", err)
		}
		return os.NewFile(uintptr(found), name), nil
	}
	root, err := unix.Open(i.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
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
func (i inside) statFile(name string) (stat unix.Stat_t, err error) {
	f, err := i.openFile(name, unix.O_PATH)
	if err != nil {
		return stat, err
	}
	defer func() { _ = f.Close() }()
	err = fd.Control(f, func(fd int) error { return unix.Fstat(fd, &stat) })
	return stat, err
}

func (i inside) isFile(name string) bool {
	stat, err := i.statFile(name)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG
}

func (i inside) isExecutable(name string) bool {
	stat, err := i.statFile(name)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Mode&0o111 != 0
}

// notFound is what there is to say when none of the candidates could be exec'ed.
func (i inside) notFound(name string, env []string) error {
	for _, candidate := range listCandidates(name, env) {
		if i.isExecutable(candidate) {
			return i.explainExec(candidate, syscall.ENOENT)
		}
	}
	return &StepError{Step: "exec", Path: name, Errno: syscall.ENOENT, Cure: i.notInPath(name, env)}
}

// notInPath says where a program has been looked for, and what helps.
func (i inside) notInPath(name string, env []string) string {
	if slices.ContainsFunc(listCandidates(name, env), i.onHost) {
		return "not found inside in PATH=" + pathOf(env) + "; give its absolute path, or mount where it is"
	}
	return "not found in PATH=" + pathOf(env) + ", neither inside nor on the host; install it, or give its absolute path"
}

// explainExec turns execve's errno, which says the same for a missing program and
// its missing interpreter, into what is missing.
func (i inside) explainExec(program string, errno unix.Errno) error {
	refusal := &StepError{Step: "exec", Path: program, Errno: errno}
	switch errno {
	case syscall.ENOENT:
		refusal.Cure = i.explainMissing(program)
	case syscall.EACCES:
		refusal.Cure = i.explainAccess(program)
	case syscall.ENOEXEC:
		refusal.Cure = i.explainFormat(program)
	case syscall.E2BIG:
		refusal.Cure = "arguments and environment are too long"
	case syscall.EAGAIN:
		refusal.Cure = "the limit nproc is reached for this user"
	}
	return refusal
}

func (i inside) explainMissing(program string) string {
	if !i.isFile(program) {
		if !i.onHost(program) {
			return "not there inside, nor on the host; correct the path, or install it"
		}
		return "not there inside; mount it with read_only, or correct the path"
	}
	name := i.findInterpreter(program)
	if name == "" {
		return "it is there, but what it needs to start is not"
	}
	return i.missingInterpreter(program, name)
}

// missingInterpreter says what helps where the interpreter of a program is not inside.
func (i inside) missingInterpreter(program, name string) string {
	switch {
	case strings.HasSuffix(name, "\r"):
		return fmt.Sprintf("its interpreter %q is not there: the file has Windows line ends; sed -i 's/\\r$//' %s takes them away", name, program)
	case !filepath.IsAbs(name):
		return fmt.Sprintf("its interpreter %s counts from the working directory, and %s is not there inside; write its absolute path after #!", name, filepath.Clean(i.absolutePath(name)))
	case !i.onHost(name):
		return "its interpreter " + name + " does not exist on the host; install it, or correct the path"
	}
	return "its interpreter " + name + " is not there inside; mount it with read_only"
}

// onHost reports whether the host has something at a path, or may have.
func (i inside) onHost(name string) bool {
	if i.root == "/" {
		return true // we are inside ourselves
	}
	err := unix.Access(name, unix.F_OK)
	return err != unix.ENOENT && err != unix.ENOTDIR
}

func (i inside) explainAccess(program string) string {
	stat, err := i.statFile(program)
	if err != nil {
		return "a folder on its path cannot be searched by the service's user"
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file"
	}
	if stat.Mode&0o111 == 0 {
		return "not executable: chmod +x"
	}
	if name := i.findInterpreter(program); name != "" && !i.isExecutable(i.absolutePath(name)) {
		return "its interpreter " + name + " is not executable by the service's user"
	}
	return "the service's user may not reach or execute it, or its file system is mounted noexec"
}

// findInterpreter is what the kernel starts a program with; "" is none.
func (i inside) findInterpreter(program string) string {
	f, err := i.openFile(program, unix.O_RDONLY)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	return interpreterOf(f)
}

// interpreterOf reads the word after #!, or PT_INTERP.
func interpreterOf(r io.ReaderAt) string {
	head := make([]byte, 256) // BINPRM_BUF_SIZE
	n, err := r.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return ""
	}
	if script, ok := bytes.CutPrefix(head[:n], []byte("#!")); ok {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		words := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(words) == 0 {
			return ""
		}
		return string(words[0])
	}
	return elfInterpreter(r)
}

// explainFolder is the error of a working directory that cannot be entered.
func (i inside) explainFolder(dir string, errno unix.Errno) error {
	cure := "it must exist inside; mount it, or make it part of the root"
	switch {
	case errno == unix.ENOTDIR:
		cure = "it is not a folder, or something on its path is none; name a folder"
	case errno == unix.EACCES:
		cure = "it is there, but the service's user may not enter it; chmod +x it and the folders above it, or choose another user"
	case errno == unix.ENOENT && !i.onHost(dir):
		cure = "it is neither inside nor on the host; create it and mount it, or correct the path"
	}
	return &StepError{Step: "working_directory", Path: dir, Errno: errno, Cure: cure}
}
