package program

import (
	"bytes"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/sandbox"
)

// ExplainNotFound is what there is to say when none of the candidates could be exec'ed.
func (r Root) ExplainNotFound(name string, env []string) error {
	for _, candidate := range ListCandidates(name, env) {
		if r.isExecutable(candidate) {
			return r.ExplainExec(candidate, syscall.ENOENT)
		}
	}
	reason, cure := r.notInPath(name, env)
	return execError(name, syscall.ENOENT, reason, cure)
}

// notInPath says where a program has been looked for, and what helps.
func (r Root) notInPath(name string, env []string) (reason, cure string) {
	if slices.ContainsFunc(ListCandidates(name, env), r.onHost) {
		return "not found inside in PATH=" + pathOf(env), "give its absolute path, or mount where it is"
	}
	return "not found in PATH=" + pathOf(env) + ", neither inside nor on the host", "install it, or give its absolute path"
}

// ExplainExec turns execve's errno, which says the same for a missing program and
// its missing interpreter, into what is missing.
func (r Root) ExplainExec(program string, errno unix.Errno) error {
	reason, cure := "", ""
	switch errno {
	case syscall.ENOENT:
		reason, cure = r.explainMissing(program)
	case syscall.EACCES:
		reason, cure = r.explainAccess(program)
	case syscall.ENOEXEC:
		reason, cure = r.explainFormat(program)
	case syscall.E2BIG:
		cure = "arguments and environment are too long"
	case syscall.EAGAIN:
		cure = "the limit nproc is reached for this user"
	}
	return execError(program, errno, reason, cure)
}

func execError(program string, errno unix.Errno, reason, cure string) error {
	return &sandbox.StepError{Step: "exec", Path: program, Errno: errno, Reason: reason, Cure: cure}
}

func (r Root) explainMissing(program string) (reason, cure string) {
	if !r.isFile(program) {
		if !r.onHost(program) {
			return "not there inside, nor on the host", "correct the path, or install it"
		}
		return "not there inside", "mount it with read_only, or correct the path"
	}
	name := r.findInterpreter(program)
	if name == "" {
		return "", "it is there, but what it needs to start is not"
	}
	return r.missingInterpreter(program, name)
}

// missingInterpreter says what helps where the interpreter of a program is not inside.
func (r Root) missingInterpreter(program, name string) (reason, cure string) {
	switch {
	case strings.HasSuffix(name, "\r"):
		return fmt.Sprintf("its interpreter %q is not there: the file has Windows line ends", name), "sed -i 's/\\r$//' " + program + " takes them away"
	case !filepath.IsAbs(name):
		return fmt.Sprintf("its interpreter %s counts from the working directory, and %s is not there inside", name, filepath.Clean(r.absolutePath(name))), "write its absolute path after #!"
	case !r.onHost(name):
		return "its interpreter " + name + " does not exist on the host", "install it, or correct the path"
	}
	return "its interpreter " + name + " is not there inside", "mount it with read_only"
}

// onHost reports whether the host has something at a path, or may have.
func (r Root) onHost(name string) bool {
	if r.Path == "/" {
		return true // we are inside ourselves
	}
	err := unix.Access(name, unix.F_OK)
	return err != unix.ENOENT && err != unix.ENOTDIR
}

func (r Root) explainAccess(program string) (reason, cure string) {
	stat, err := r.statFile(program)
	if err != nil {
		return "", "a folder on its path cannot be searched by the service's user"
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return "", "not a file"
	}
	if stat.Mode&0o111 == 0 {
		return "", "not executable: chmod +x"
	}
	if name := r.findInterpreter(program); name != "" && !r.isExecutable(r.absolutePath(name)) {
		return "", "its interpreter " + name + " is not executable by the service's user"
	}
	return "", "the service's user may not reach or execute it, or its file system is mounted noexec"
}

// findInterpreter is what the kernel starts a program with; "" is none.
func (r Root) findInterpreter(program string) string {
	f, err := r.OpenFile(program, unix.O_RDONLY)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	return interpreterOf(f)
}

// ExplainFolder is the error of a working directory that cannot be entered.
func (r Root) ExplainFolder(dir string, errno unix.Errno) error {
	reason, cure := "it must exist inside", "mount it, or make it part of the root"
	switch {
	case errno == unix.ENOTDIR:
		reason, cure = "it is not a folder, or something on its path is none", "name a folder"
	case errno == unix.EACCES:
		reason, cure = "it is there, but the service's user may not enter it", "chmod +x it and the folders above it, or choose another user"
	case errno == unix.ENOENT && !r.onHost(dir):
		reason, cure = "it is neither inside nor on the host", "create it and mount it, or correct the path"
	}
	return &sandbox.StepError{Step: "working_directory", Path: dir, Errno: errno, Reason: reason, Cure: cure}
}

// explainFormat says why the kernel knows no way to execute a file.
func (r Root) explainFormat(program string) (reason, cure string) {
	const what = "neither a program for this machine nor a script that starts with #!"
	f, err := r.OpenFile(program, unix.O_RDONLY)
	if err != nil {
		return "", what
	}
	defer func() { _ = f.Close() }()
	head, _ := readHead(f)
	switch machine := foreignMachine(head); {
	case len(head) == 0:
		return what, "the file is empty"
	case bytes.HasPrefix(head, []byte("\ufeff")), bytes.HasPrefix(head, []byte("\xff\xfe")), bytes.HasPrefix(head, []byte("\xfe\xff")):
		return what, "it begins with a byte order mark: save it as UTF-8 without one"
	case machine != "":
		return what, "it is built for " + machine + ", and this machine is " + runtime.GOARCH + ": build it for this one"
	case bytes.HasPrefix(head, []byte("#!")):
		return what, "no interpreter stands behind its #!"
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return "", what
	}
	return what, "a script begins with a line such as #!/bin/sh"
}
