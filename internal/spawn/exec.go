package spawn

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lookup finds the program as execvp(3) does, in the PATH of env, in the root
// as it is now.
func lookup(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := ""
	for _, entry := range env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			path = value
		}
	}
	for _, folder := range filepath.SplitList(path) {
		if !filepath.IsAbs(folder) {
			continue // the working directory is no place for programs
		}
		candidate := folder + "/" + name
		if unix.Access(candidate, unix.X_OK) == nil && isFile(candidate) {
			return candidate, nil
		}
	}
	return "", &StageError{Step: "exec", Path: name, Errno: syscall.ENOENT,
		Cure: "not found inside in PATH=" + path + "; give its absolute path, or mount where it is"}
}

func isFile(name string) bool {
	var stat unix.Stat_t
	return unix.Stat(name, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG
}

// explain turns execve's errno, which says the same for a missing program and
// its missing interpreter, into what is missing.
func explain(program string, err error) error {
	refusal := &StageError{Step: "exec", Path: program, Errno: errnoOf(err)}
	switch refusal.Errno {
	case syscall.ENOENT:
		refusal.Cure = missing(program)
	case syscall.EACCES:
		refusal.Cure = inaccessible(program)
	case syscall.ENOEXEC:
		refusal.Cure = "neither a program for this machine nor a script that starts with #!"
	case syscall.E2BIG:
		refusal.Cure = "arguments and environment are too long"
	case syscall.EAGAIN:
		refusal.Cure = "the limit nproc is reached for this user"
	}
	return refusal
}

func missing(program string) string {
	if !isFile(program) {
		return "not there inside; mount it with read_only, or correct the path"
	}
	name := interpreter(program)
	if name == "" {
		return "it is there, but what it needs to start is not"
	}
	return "its interpreter " + name + " is not there inside; mount it with read_only"
}

func inaccessible(program string) string {
	var stat unix.Stat_t
	if err := unix.Stat(program, &stat); err != nil {
		return "a folder on its path cannot be searched by the service's user"
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return "not a file"
	}
	if stat.Mode&0o111 == 0 {
		return "not executable: chmod +x"
	}
	if name := interpreter(program); name != "" && unix.Access(name, unix.X_OK) != nil {
		return "its interpreter " + name + " is not executable by the service's user"
	}
	return "the service's user may not execute it, or its file system is mounted noexec"
}

// interpreter is what the kernel starts a program with; "" is none.
func interpreter(program string) string {
	f, err := os.Open(program)
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
	return elfInterpreter(r, head[:n])
}

// elfInterpreter reads PT_INTERP of a 64-bit little-endian program, elf(5): both
// machines we build for. Package debug/elf would be linked into every stage.
func elfInterpreter(r io.ReaderAt, head []byte) string {
	const headerSize, class64, littleEndian, interp = 64, 2, 1, 3
	if len(head) < headerSize || string(head[:4]) != "\x7fELF" || head[4] != class64 || head[5] != littleEndian {
		return ""
	}
	le := binary.LittleEndian
	offset, size, count := le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])
	segment := make([]byte, 56)
	for i := range uint64(min(count, 1024)) {
		if _, err := r.ReadAt(segment, int64(offset+i*uint64(size))); err != nil {
			return ""
		}
		if le.Uint32(segment) != interp {
			continue
		}
		text := make([]byte, min(le.Uint64(segment[32:]), 4096))
		if _, err := r.ReadAt(text, int64(le.Uint64(segment[8:]))); err != nil {
			return ""
		}
		return string(bytes.TrimRight(text, "\x00"))
	}
	return ""
}
