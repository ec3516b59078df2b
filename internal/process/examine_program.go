package process

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
)

// mostScripts is how many scripts may be each other's interpreters, exec_binprm in
// fs/exec.c.
const mostScripts = 5

// examineProgram finds out as execve(2) would why a program cannot be started, with
// its interpreter and its libraries; nil where it can, or where that cannot be told.
func (i inside) examineProgram(name string, env []string) error {
	names := listCandidates(name, env)
	for _, candidate := range names {
		err := i.examineFile(candidate, env, 0)
		if strings.Contains(name, "/") || !goesOn(err) {
			return err
		}
	}
	return i.notFound(name, env)
}

// goesOn reports whether a search in PATH goes on after err, execvp(3).
func goesOn(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EACCES)
}

// examineFile looks at a program, or at what is the interpreter of others.
func (i inside) examineFile(program string, env []string, depth int) error {
	spot, errno := i.findExecutable(program)
	switch {
	case errno == unknown:
		return nil
	case errno != 0:
		return i.explainExec(program, errno)
	case depth > mostScripts:
		return &StepError{Step: "exec", Path: program, Errno: unix.ELOOP, Cure: "scripts that are each other's interpreters"}
	}
	f, err := i.openFile(program, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")) && interpreterOf(f) != "":
		if !i.view.Allows(spot, 4) {
			return &StepError{Step: "exec", Path: program, Errno: unix.EACCES, Cure: "a script, which the service's user may execute but its interpreter could not read; chmod +r"}
		}
		return i.examineScript(program, interpreterOf(f), head, env, depth)
	case forThisMachine(head):
		return i.examineBinary(program, f, env)
	case bytes.HasPrefix(head, []byte("\x7fELF")) && foreignMachine(head) == "":
		return nil // of 32 bits, or cut off
	case hasFormat(program, head):
		return nil
	}
	return i.explainExec(program, unix.ENOEXEC)
}

// examineScript looks at what a script names after #!.
func (i inside) examineScript(script, interpreter string, head []byte, env []string, depth int) error {
	if err := i.examineInterpreter(script, interpreter, env, depth); err != nil {
		return err
	}
	search, cure := searchOf(interpreter, head, env)
	if search.name == "" {
		return nil
	}
	if spot, err := i.view.Find(i.absolutePath(interpreter)); err != nil || cure == "" && path.Base(spot.Path) == "busybox" {
		return nil // whose env does not split
	}
	for _, candidate := range listCandidates(search.name, search.env) {
		if !goesOn(i.examineFile(i.absolutePath(candidate), search.env, depth+1)) {
			return nil
		}
	}
	return &StepError{Step: "exec", Path: script, Errno: syscall.ENOENT, Cure: i.missingSearch(search, script, cure)}
}

// examineInterpreter says of the file whose interpreter is missing that it is.
func (i inside) examineInterpreter(file, interpreter string, env []string, depth int) error {
	place := i.absolutePath(interpreter)
	err := i.examineFile(place, env, depth+1)
	var refused *StepError
	if !errors.As(err, &refused) || refused.Path != place {
		return err
	}
	spot, missing := i.view.Find(place)
	if missing == nil && spot.Stat.Mode&unix.S_IFMT == unix.S_IFREG && refused.Errno != unix.EACCES {
		return err // it is there, and lacks something itself
	}
	return i.explainExec(file, refused.Errno)
}

// examineBinary looks at the loader and the libraries that a program needs.
func (i inside) examineBinary(program string, f *os.File, env []string) error {
	loader := interpreterOf(f)
	if !strings.HasPrefix(loader, "/") {
		return nil
	}
	switch _, errno := i.findExecutable(loader); errno {
	case unknown:
		return nil
	case 0:
		return i.examineLibraries(program, loader, env)
	default:
		return i.explainExec(program, errno)
	}
}

// unknown is in the place of an errno where nobody can say what execve(2) would.
const unknown = ^syscall.Errno(0)

// findExecutable is what stands at a path, and what execve(2) says if that is no file that the
// service's user may execute.
func (i inside) findExecutable(name string) (sandbox.Spot, syscall.Errno) {
	spot, err := i.view.Find(name)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return spot, errno
	case err != nil:
		return spot, unknown
	case spot.Stat.Mode&unix.S_IFMT != unix.S_IFREG || !i.view.Allows(spot, 1) || spot.NoExec():
		return spot, unix.EACCES
	}
	return spot, 0
}
