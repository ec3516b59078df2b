package spawn

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mostScripts is how many scripts may be each other's interpreters, exec_binprm in
// fs/exec.c.
const mostScripts = 5

// examineProgram finds out as execve(2) would why a program cannot be started, with
// its interpreter and its libraries; nil where it can, or where that cannot be told.
func (i inside) examineProgram(name string, env []string) error {
	names := candidates(name, env)
	for _, candidate := range names {
		err := i.examineFile(candidate, env, 0)
		if strings.Contains(name, "/") || !absent(err) {
			return err
		}
	}
	return i.notFound(name, env)
}

// absent reports whether a search in PATH goes on after err, execvp(3).
func absent(err error) bool {
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.EACCES)
}

// examineFile looks at a program, or at what is the interpreter of others.
func (i inside) examineFile(program string, env []string, depth int) error {
	spot, err := i.view.Find(program)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return i.explain(program, errno)
	case err != nil:
		return nil
	case spot.Stat.Mode&unix.S_IFMT != unix.S_IFREG || !i.view.Allows(spot, 1) || spot.NoExec():
		return i.explain(program, unix.EACCES)
	case depth > mostScripts:
		return &StageError{Step: "exec", Path: program, Errno: unix.ELOOP, Cure: "scripts that are each other's interpreters"}
	}
	f, err := i.open(program, unix.O_RDONLY)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return i.examineScript(program, interpreterOf(f), head, env, depth)
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		if !forThisMachine(head) {
			return nil // perhaps somebody emulates it
		}
		return i.examineBinary(program, f, env)
	case otherFormats():
		return nil
	}
	return i.explain(program, unix.ENOEXEC)
}

// examineScript looks at what a script names after #!.
func (i inside) examineScript(script, interpreter string, head []byte, env []string, depth int) error {
	switch {
	case interpreter == "":
		return i.explain(script, unix.ENOEXEC)
	case !strings.HasPrefix(interpreter, "/"):
		return nil // of the working directory
	}
	if err := i.examineInterpreter(script, interpreter, env, depth); err != nil {
		return err
	}
	name := searched(interpreter, head)
	if name == "" {
		return nil
	}
	for _, candidate := range candidates(name, env) {
		if !absent(i.examineFile(candidate, env, depth+1)) {
			return nil
		}
	}
	return &StageError{Step: "exec", Path: script, Errno: syscall.ENOENT,
		Cure: "its interpreter " + name + " is not found inside in PATH=" + pathOf(env) + "; mount it with read_only"}
}

// examineInterpreter says of the file whose interpreter is missing that it is.
func (i inside) examineInterpreter(file, interpreter string, env []string, depth int) error {
	err := i.examineFile(interpreter, env, depth+1)
	var refused *StageError
	if !errors.As(err, &refused) || refused.Path != interpreter {
		return err
	}
	spot, missing := i.view.Find(interpreter)
	if missing == nil && spot.Stat.Mode&unix.S_IFMT == unix.S_IFREG && refused.Errno != unix.EACCES {
		return err // it is there, and lacks something itself
	}
	return i.explain(file, refused.Errno)
}

// searched is the program that env(1) looks for in PATH on a script's behalf; "" where
// it does not, or not simply.
func searched(interpreter string, head []byte) string {
	if filepath.Base(interpreter) != "env" {
		return ""
	}
	line, _, whole := bytes.Cut(head, []byte("\n"))
	words := strings.Fields(string(line))[1:]
	if string(line[:2]) == "#!" && len(line) > 2 && (line[2] == ' ' || line[2] == '\t') {
		words = words[1:] // "#! /usr/bin/env"
	}
	switch {
	case !whole:
		return ""
	case len(words) == 1:
	case len(words) > 1 && words[0] == "-S":
		words = words[1:]
	default:
		return ""
	}
	if strings.ContainsAny(words[0], "=/$\\\"'") || words[0][0] == '-' {
		return ""
	}
	return words[0]
}

// examineBinary looks at the loader and the libraries that a program needs.
func (i inside) examineBinary(program string, f *os.File, env []string) error {
	loader := interpreterOf(f)
	if !strings.HasPrefix(loader, "/") {
		return nil
	}
	spot, err := i.view.Find(loader)
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return i.explain(program, errno)
	case err != nil:
		return nil
	case spot.Stat.Mode&unix.S_IFMT != unix.S_IFREG || !i.view.Allows(spot, 1) || spot.NoExec():
		return i.explain(program, unix.EACCES)
	}
	return i.examineLibraries(program, loader, env)
}

// otherFormats reports whether the kernel may know of formats that we do not,
// binfmt_misc of its documentation. Where it has none mounted that cannot be told.
func otherFormats() bool {
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && !bytes.Contains(known, []byte("\tbinfmt_misc\n")) {
		return false
	}
	entries, err := os.ReadDir("/proc/sys/fs/binfmt_misc")
	return err != nil || len(entries) != 2 // "register" and "status"
}
