package program

import (
	"bytes"
	"errors"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
)

// mostScripts is how many scripts may be each other's interpreters, exec_binprm in
// fs/exec.c.
const mostScripts = 5

// ExamineProgram finds out as execve(2) would why a program cannot be started, with
// its interpreter and its libraries; nil where it can, or where that cannot be told.
func (r Root) ExamineProgram(name string, env []string) error {
	names := ListCandidates(name, env)
	for _, candidate := range names {
		err := r.examineFile(candidate, env, 0)
		if strings.Contains(name, "/") || !goesOn(err) {
			return err
		}
	}
	return r.ExplainNotFound(name, env)
}

// goesOn reports whether a search in PATH goes on after err, execvp(3).
func goesOn(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EACCES)
}

// examineFile looks at a program, or at what is the interpreter of others.
func (r Root) examineFile(program string, env []string, depth int) error {
	spot, errno := r.findExecutable(program)
	switch {
	case errno == unknown:
		return nil
	case errno != 0:
		return r.ExplainExec(program, errno)
	case depth > mostScripts:
		return execError(program, unix.ELOOP, "", "scripts that are each other's interpreters")
	}
	f, err := r.OpenFile(program, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	head, err := readHead(f)
	if err != nil {
		return nil
	}
	interpreter := interpreterOf(f)
	switch {
	case bytes.HasPrefix(head, []byte("#!")) && interpreter != "":
		if !r.View.Allows(spot, 4) {
			return execError(program, unix.EACCES, "a script, which the service's user may execute but its interpreter could not read", "chmod +r")
		}
		return r.examineScript(program, interpreter, head, env, depth)
	case forThisMachine(head):
		return r.examineBinary(program, interpreter, env)
	case bytes.HasPrefix(head, []byte("\x7fELF")) && foreignMachine(head) == "":
		return nil // of 32 bits, or cut off
	case hasFormat(program, spot.Host, head):
		return nil
	}
	return r.ExplainExec(program, unix.ENOEXEC)
}

// examineScript looks at what a script names after #!.
func (r Root) examineScript(script, interpreter string, head []byte, env []string, depth int) error {
	if err := r.examineInterpreter(script, interpreter, env, depth); err != nil {
		return err
	}
	search, cure := searchOf(interpreter, head, env)
	if search.name == "" {
		return nil
	}
	if spot, err := r.View.Find(r.absolutePath(interpreter)); err != nil || cure == "" && path.Base(spot.Path) == "busybox" {
		return nil // whose env does not split
	}
	for _, candidate := range ListCandidates(search.name, search.env) {
		if !goesOn(r.examineFile(r.absolutePath(candidate), search.env, depth+1)) {
			return nil
		}
	}
	reason, cure := r.missingSearch(search, script, cure)
	return execError(script, syscall.ENOENT, reason, cure)
}

// examineInterpreter says of the file whose interpreter is missing that it is.
func (r Root) examineInterpreter(file, interpreter string, env []string, depth int) error {
	place := r.absolutePath(interpreter)
	err := r.examineFile(place, env, depth+1)
	var refused *sandbox.StepError
	if !errors.As(err, &refused) || refused.Path != place {
		return err
	}
	spot, missing := r.View.Find(place)
	if missing == nil && spot.Stat.Mode&unix.S_IFMT == unix.S_IFREG && refused.Errno != unix.EACCES {
		return err // it is there, and lacks something itself
	}
	return r.ExplainExec(file, refused.Errno)
}

// examineBinary looks at the loader and the libraries that a program needs.
func (r Root) examineBinary(program, loader string, env []string) error {
	if !strings.HasPrefix(loader, "/") {
		return nil
	}
	switch _, errno := r.findExecutable(loader); errno {
	case unknown:
		return nil
	case 0:
		return r.examineLibraries(program, loader, env)
	default:
		return r.ExplainExec(program, errno)
	}
}

// unknown is in the place of an errno where it is not known what execve(2) would say.
const unknown = ^syscall.Errno(0)

// findExecutable is what stands at a path, and what execve(2) says if that is no file that the
// service's user may execute.
func (r Root) findExecutable(name string) (sandbox.Spot, syscall.Errno) {
	spot, err := r.View.Find(name)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return spot, errno
	case err != nil:
		return spot, unknown
	case spot.Stat.Mode&unix.S_IFMT != unix.S_IFREG || !r.View.Allows(spot, 1) || spot.NoExec():
		return spot, unix.EACCES
	}
	return spot, 0
}

// ExamineFolder looks at the working directory.
func (r Root) ExamineFolder(dir string) error {
	spot, err := r.View.Find(dir)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return r.ExplainFolder(dir, errno)
	case err != nil:
		return nil // it cannot be told
	case !spot.Folder():
		return r.ExplainFolder(dir, unix.ENOTDIR)
	case !r.View.Allows(spot, 1):
		return r.ExplainFolder(dir, unix.EACCES)
	}
	return nil
}
