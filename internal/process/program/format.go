package program

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

// format is an enabled entry of binfmt_misc: the kernel's
// Documentation/admin-guide/binfmt-misc.rst.
type format struct {
	extension   string // "": by magic
	offset      int
	magic, mask []byte
}

// isFor reports whether the entry is for a file with this name, that begins with head.
func (f format) isFor(name string, head []byte) bool {
	if f.extension != "" {
		return strings.HasSuffix(name, "."+f.extension)
	}
	whole := make([]byte, headSize)
	copy(whole, head)
	if f.offset < 0 || f.offset+len(f.magic) > len(whole) {
		return false
	}
	for i, want := range f.magic {
		keep := byte(0xff)
		if i < len(f.mask) {
			keep = f.mask[i]
		}
		if (whole[f.offset+i]^want)&keep != 0 {
			return false
		}
	}
	return true
}

// parseFormat reads the text of an entry; ok is false of one that is not enabled.
func parseFormat(text string) (f format, ok bool) {
	for line := range strings.Lines(text) {
		key, word, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		var err error
		switch key {
		case "enabled":
			ok = true
		case "extension":
			f.extension = strings.TrimPrefix(word, ".")
		case "offset":
			f.offset, err = strconv.Atoi(word)
		case "magic":
			f.magic, err = hex.DecodeString(word)
		case "mask":
			f.mask, err = hex.DecodeString(word)
		}
		if err != nil {
			return format{}, ok // with no magic: it may take anything
		}
	}
	return f, ok
}

// readFormats reads the entries in a folder where binfmt_misc is mounted; known is false
// where it is not.
func readFormats(folder string) (all []format, known bool) {
	state, err := os.ReadFile(filepath.Join(folder, "status"))
	if err != nil {
		return nil, false
	}
	if string(state) != "enabled\n" {
		return nil, true
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, false
	}
	for _, entry := range entries {
		if name := entry.Name(); name == "status" || name == "register" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, entry.Name()))
		if err != nil {
			return nil, false
		}
		if f, enabled := parseFormat(string(text)); enabled {
			all = append(all, f)
		}
	}
	return all, true
}

// otherFormats are those that the kernel knows by binfmt_misc; known is false where that
// cannot be told. Where it is not mounted, root looks at it all the same, by a mount that is
// attached nowhere. In a user namespace such a mount would be a new, empty one.
func otherFormats() (all []format, known bool) {
	if kinds, err := os.ReadFile("/proc/filesystems"); err == nil && !bytes.Contains(kinds, []byte("\tbinfmt_misc\n")) {
		return nil, true
	}
	if all, known = readFormats("/proc/sys/fs/binfmt_misc"); known {
		return all, true
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(ids)), " 4294967295") {
		return nil, false
	}
	context, err := unix.Fsopen("binfmt_misc", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, false
	}
	defer func() { _ = unix.Close(context) }()
	if unix.FsconfigCreate(context) != nil {
		return nil, false
	}
	tree, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer func() { _ = unix.Close(tree) }()
	return readFormats(fd.LinkOf(tree))
}

// hasFormat reports whether a file of a format that is not the kernel's own may be
// executed all the same. Where the entries cannot be read, the kernel is asked to execute the
// file, which stands on the host.
func hasFormat(name, host string, head []byte) bool {
	all, known := otherFormats()
	if !known {
		return !isRefused(host)
	}
	for _, f := range all {
		if f.isFor(name, head) {
			return true
		}
	}
	return false
}

// isRefused reports whether the kernel knows no way to execute a file. Nothing of it runs: a traced
// child stops before its first instruction, ptrace(2), and is killed there.
func isRefused(host string) bool {
	if host == "" {
		return false
	}
	runtime.LockOSThread() // which traces the child
	defer runtime.UnlockOSThread()
	child := exec.Cmd{Path: host, Args: []string{host}, Env: []string{}, SysProcAttr: &syscall.SysProcAttr{Ptrace: true}}
	if err := child.Start(); err != nil {
		return errors.Is(err, syscall.ENOEXEC)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	return false
}

// machines are the names of e_machine, elf(5), as Go's tools write them.
var machines = map[uint16]string{3: "386", 8: "mips", 20: "ppc", 21: "ppc64", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}

// foreignMachine is the machine that a program is built for, if it is certainly not this one; "" if
// it is, or where the kernel may execute it too: 32 bits beside 64.
func foreignMachine(head []byte) string {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte("\x7fELF")) {
		return ""
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if head[5] == 2 {
		order = binary.BigEndian
	}
	number := order.Uint16(head[18:])
	name, known := machines[number]
	if !known {
		name = fmt.Sprintf("machine %d of elf(5)", number)
	}
	if name == runtime.GOARCH || name == map[string]string{"amd64": "386", "arm64": "arm"}[runtime.GOARCH] {
		return ""
	}
	return name
}
