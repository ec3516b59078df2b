package sockfilter

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// A program is a list of instructions for the kernel's virtual machine
// (Documentation/bpf/standardization/instruction-set.rst). What github.com/cilium/ebpf
// would cost instead is in the table of libraries in docs/architecture.md.
type program struct {
	code   []instruction
	jumps  map[int]string // instruction -> label
	labels map[string]int
}

// instruction is struct bpf_insn of linux/bpf.h.
type instruction struct {
	Op        uint8
	Registers uint8 // destination in the lower half, source in the upper, on little endian
	Offset    int16
	Immediate int32
}

// instructionSize is in bytes.
const instructionSize = 8

// register is one of the eleven: r0 is what a call returns, r1 to r5 are its
// arguments and lost in it, r6 to r9 stay, r10 is the end of the stack.
type register uint8

const (
	r0 register = iota
	r1
	r2
	r3
	r4
	_
	r6
	r7
	r8
	r9
	r10
)

// size is how much a load or a store moves: BPF_W, BPF_H, BPF_B, BPF_DW.
type size uint8

const (
	word       size = unix.BPF_W
	half       size = unix.BPF_H
	octet      size = unix.BPF_B
	doubleWord size = unix.BPF_DW
)

// The operations that are used.
const (
	opLoad      = unix.BPF_LDX | unix.BPF_MEM
	opStore     = unix.BPF_STX | unix.BPF_MEM
	opWide      = unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM // two instructions long
	opMove      = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opMoveValue = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAddValue  = unix.BPF_ALU64 | unix.BPF_ADD | unix.BPF_K
	opAndValue  = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opSubtract  = unix.BPF_ALU64 | unix.BPF_SUB | unix.BPF_X
	opShift     = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opJump      = unix.BPF_JMP | unix.BPF_JA
	opEqual     = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opNotEqual  = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	opGreater   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K // unsigned
	opDiffer    = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X
	opBeyond    = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_X // unsigned
	opCall      = unix.BPF_JMP | unix.BPF_CALL
	opExit      = unix.BPF_JMP | unix.BPF_EXIT
)

// helper is a function of the kernel, by its number in linux/bpf.h.
type helper int32

const (
	mapLookup    helper = 1
	mapUpdate    helper = 2
	loadBytes    helper = 26 // bpf_skb_load_bytes
	socketCookie helper = 46
	coarseClock  helper = 160 // bpf_ktime_get_coarse_ns
)

func newProgram() *program {
	return &program{jumps: map[int]string{}, labels: map[string]int{}}
}

func (p *program) add(op uint8, destination, source register, offset int16, immediate int32) {
	p.code = append(p.code, instruction{op, registers(destination, source), offset, immediate})
}

// registers packs two halves of a byte; the C bit fields they are stand the
// other way round where the machine is big endian.
func registers(destination, source register) uint8 {
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		return uint8(destination)<<4 | uint8(source)
	}
	return uint8(source)<<4 | uint8(destination)
}

func (p *program) load(s size, to, from register, offset int16) {
	p.add(opLoad|uint8(s), to, from, offset, 0)
}

func (p *program) store(s size, to register, offset int16, from register) {
	p.add(opStore|uint8(s), to, from, offset, 0)
}

func (p *program) move(to, from register)             { p.add(opMove, to, from, 0, 0) }
func (p *program) moveValue(to register, value int32) { p.add(opMoveValue, to, 0, 0, value) }
func (p *program) and(to register, value int32)       { p.add(opAndValue, to, 0, 0, value) }
func (p *program) subtract(to, what register)         { p.add(opSubtract, to, what, 0, 0) }
func (p *program) shiftRight(to register, bits int32) { p.add(opShift, to, 0, 0, bits) }
func (p *program) call(h helper)                      { p.add(opCall, 0, 0, 0, int32(h)) }

// loadMap loads the map behind a descriptor, which is lent until the program is
// in the kernel.
func (p *program) loadMap(to register, fd int) {
	p.add(opWide, to, unix.BPF_PSEUDO_MAP_FD, 0, int32(fd))
	p.add(0, 0, 0, 0, 0)
}

// loadNumber loads a number of 64 bits.
func (p *program) loadNumber(to register, n uint64) {
	p.add(opWide, to, 0, 0, int32(uint32(n)))
	p.add(0, 0, 0, 0, int32(uint32(n>>32)))
}

// stack loads the address of the stack's byte at offset, which is negative.
func (p *program) stack(to register, offset int16) {
	p.move(to, r10)
	p.add(opAddValue, to, 0, 0, int32(offset))
}

func (p *program) jump(label string) {
	p.jumps[len(p.code)] = label
	p.add(opJump, 0, 0, 0, 0)
}

func (p *program) ifEqual(r register, value int32, label string) {
	p.jumps[len(p.code)] = label
	p.add(opEqual, r, 0, 0, value)
}

func (p *program) ifNot(r register, value int32, label string) {
	p.jumps[len(p.code)] = label
	p.add(opNotEqual, r, 0, 0, value)
}

func (p *program) ifGreater(r register, value int32, label string) {
	p.jumps[len(p.code)] = label
	p.add(opGreater, r, 0, 0, value)
}

func (p *program) ifDiffer(a, b register, label string) {
	p.jumps[len(p.code)] = label
	p.add(opDiffer, a, b, 0, 0)
}

func (p *program) ifBeyond(a, b register, label string) {
	p.jumps[len(p.code)] = label
	p.add(opBeyond, a, b, 0, 0)
}

func (p *program) label(name string) { p.labels[name] = len(p.code) }

// result ends the program: what the kernel takes for an answer is in r0.
func (p *program) result(value int32) {
	p.moveValue(r0, value)
	p.add(opExit, 0, 0, 0, 0)
}

// bytes returns the program as the kernel reads it.
func (p *program) bytes() ([]byte, error) {
	for at, label := range p.jumps {
		target, known := p.labels[label]
		if !known {
			return nil, fmt.Errorf("instruction %d jumps to %q, which is nowhere", at, label)
		}
		p.code[at].Offset = int16(target - at - 1)
	}
	var b bytes.Buffer
	if err := binary.Write(&b, binary.NativeEndian, p.code); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
