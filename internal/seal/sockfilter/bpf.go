package sockfilter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel's names of our maps and programs, as bpftool shows them.
const objectName = "activator"

// mapSpec and the other structs here are the parts of union bpf_attr, bpf(2),
// linux/bpf.h, that the kernels since 5.15 have. A pointer in them is one of Go's,
// so that the runtime knows what it points to; the kernel wants 64 bits of it, and
// the machines we build for have them.
type mapSpec struct {
	kind, key, value, entries uint32
	flags                     uint32
	inner                     uint32 // descriptor of a map that shows what is in this one
	node                      uint32
	name                      [unix.BPF_OBJ_NAME_LEN]byte
}

func createMap(s mapSpec) (*os.File, error) {
	copy(s.name[:], objectName)
	fd, err := bpf(unix.BPF_MAP_CREATE, unsafe.Pointer(&s), unsafe.Sizeof(s))
	if err != nil {
		return nil, os.NewSyscallError("bpf BPF_MAP_CREATE", err)
	}
	return os.NewFile(uintptr(fd), "bpf map"), nil
}

type mapElement struct {
	fd, _      uint32
	key, value unsafe.Pointer
	flags      uint64
}

// setElement stores value under key.
func setElement[K, V uint32 | uint64](table int, key K, value V) error {
	e := mapElement{fd: uint32(table), key: unsafe.Pointer(&key), value: unsafe.Pointer(&value)}
	_, err := bpf(unix.BPF_MAP_UPDATE_ELEM, unsafe.Pointer(&e), unsafe.Sizeof(e))
	return os.NewSyscallError("bpf BPF_MAP_UPDATE_ELEM", err)
}

// removeElement removes what is under key, if there is something.
func removeElement[K uint32 | uint64](table int, key K) error {
	e := mapElement{fd: uint32(table), key: unsafe.Pointer(&key)}
	_, err := bpf(unix.BPF_MAP_DELETE_ELEM, unsafe.Pointer(&e), unsafe.Sizeof(e))
	if err == unix.ENOENT {
		return nil
	}
	return os.NewSyscallError("bpf BPF_MAP_DELETE_ELEM", err)
}

type programSpec struct {
	kind, length       uint32
	code, license      unsafe.Pointer
	logLevel, logSize  uint32
	log                unsafe.Pointer
	version, flags     uint32
	name               [unix.BPF_OBJ_NAME_LEN]byte
	device, attachType uint32
}

// loadProgram gives a program to the kernel, which proves it first; why it
// refuses one is in the error.
func loadProgram(h hook, t tables) (*os.File, error) {
	code, err := h.build(t).bytes()
	if err != nil {
		return nil, err
	}
	license := []byte("MIT\x00") // no helper that we use asks for the GPL
	s := programSpec{kind: h.kind, length: uint32(len(code) / instructionSize), code: unsafe.Pointer(&code[0]), license: unsafe.Pointer(&license[0]), attachType: h.attach}
	copy(s.name[:], objectName)
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&s), unsafe.Sizeof(s))
	if err != nil && !errors.Is(err, unix.EPERM) {
		log := make([]byte, 1<<16)
		s.logLevel, s.logSize, s.log = 1, uint32(len(log)), unsafe.Pointer(&log[0])
		if again, err2 := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&s), unsafe.Sizeof(s)); err2 == nil {
			fd, err = again, nil // too little memory the first time
		} else {
			err = fmt.Errorf("%w%s", err, lastLine(log))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bpf BPF_PROG_LOAD: %w", err)
	}
	return os.NewFile(uintptr(fd), "bpf program"), nil
}

// lastLine returns the verifier's verdict, which stands before its statistics.
func lastLine(log []byte) string {
	text, _, _ := bytes.Cut(log, []byte{0})
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for len(lines) > 1 && strings.HasPrefix(lines[len(lines)-1], "processed ") {
		lines = lines[:len(lines)-1]
	}
	if verdict := lines[len(lines)-1]; verdict != "" {
		return ": " + verdict
	}
	return ""
}

type attachment struct {
	target, program, attachType, flags, replace uint32
}

// attach makes a program one of those of a cgroup: beside others, so that what
// is above us (systemd's IPAddressDeny=) stays in force. It is not a link: a link
// ends with its descriptor, and these have to outlive us.
func attach(cgroup, program int, h hook) error {
	a := attachment{target: uint32(cgroup), program: uint32(program), attachType: h.attach, flags: unix.BPF_F_ALLOW_MULTI}
	_, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a))
	return os.NewSyscallError("bpf BPF_PROG_ATTACH", err)
}

// bpf is bpf(2). EAGAIN: the verifier was interrupted by a signal.
func bpf(command int, attribute unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attribute), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
			if command == unix.BPF_PROG_LOAD || errno == unix.EINTR {
				continue
			}
		}
		return -1, errno
	}
}
