package sockfilter

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The bytes are those of the kernel's own macros in linux/filter.h.
func TestAssembler(t *testing.T) {
	p := newProgram()
	p.move(r6, r1)                    // BPF_MOV64_REG(BPF_REG_6, BPF_REG_1)
	p.load(half, r1, r10, -46)        // BPF_LDX_MEM(BPF_H, BPF_REG_1, BPF_REG_10, -46)
	p.store(doubleWord, r10, -32, r0) // BPF_STX_MEM(BPF_DW, BPF_REG_10, BPF_REG_0, -32)
	p.loadMap(r1, 5)                  // BPF_LD_MAP_FD(BPF_REG_1, 5)
	p.ifEqual(r0, 0, "end")           // BPF_JMP_IMM(BPF_JEQ, BPF_REG_0, 0, 1)
	p.call(mapLookup)                 // BPF_CALL_FUNC(BPF_FUNC_map_lookup_elem)
	p.label("end")
	p.result(1) // BPF_MOV64_IMM(BPF_REG_0, 1), BPF_EXIT_INSN()
	want := []instruction{
		{0xbf, registers(6, 1), 0, 0}, {0x69, registers(1, 10), -46, 0}, {0x7b, registers(10, 0), -32, 0},
		{0x18, registers(1, 1), 0, 5}, {}, {0x15, 0, 1, 0}, {0x85, 0, 0, 1}, {0xb7, 0, 0, 1}, {0x95, 0, 0, 0},
	}
	code, err := p.bytes()
	if err != nil || len(code) != instructionSize*len(want) || !slices.Equal(p.code, want) {
		t.Errorf("got %x, %v, %v", code, p.code, err)
	}
	p.jump("nowhere")
	if _, err := p.bytes(); err == nil {
		t.Error("a jump to nowhere is no error")
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		step string
		err  error
		cure string
	}{
		{stepMount, unix.EPERM, "CAP_SYS_ADMIN"},
		{stepMount, unix.ENODEV, "CONFIG_CGROUPS"},
		{stepTables, unix.EPERM, "CAP_BPF"},
		{stepPrograms, unix.EINVAL, "5.15"},
		{stepTables, unix.ENOMEM, "memory"},
		{stepAttach, unix.EPERM, "CAP_NET_ADMIN"},
		{stepAttach, unix.EINVAL, "CONFIG_CGROUP_BPF"},
		{stepNewGroup, unix.EAGAIN, "cgroup.max.descendants"},
		{stepNewGroup, unix.EACCES, "Delegate=yes"},
		{stepSockets, unix.EAGAIN, "pids.max"},
		{stepSockets, unix.EMFILE, "ulimit -n"},
	} {
		err := newStepError(tt.step, tt.err)
		if !errors.Is(err, tt.err) || !strings.HasPrefix(err.Error(), tt.step+": ") || !strings.Contains(err.Error(), tt.cure) {
			t.Errorf("%v", err)
		}
		if again := newStepError(stepTrial, err); again != err {
			t.Errorf("%v became %v", err, again)
		}
	}
	if err := newStepError(stepNewGroup, nil); err != nil {
		t.Errorf("of nothing: %v", err)
	}
}
