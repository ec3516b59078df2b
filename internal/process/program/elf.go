package program

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
)

// program header types and tags, elf(5).
const (
	ptLoad, ptDynamic, ptInterp = 1, 2, 3

	dtNeeded, dtStrTab, dtStrSize, dtRPath, dtRunPath = 1, 5, 10, 15, 29
)

// segment is a program header.
type segment struct {
	kind               uint32
	offset, addr, size uint64
}

// readSegments reads the program headers of a 64-bit little-endian program: both machines
// we build for. It is nil of anything else.
func readSegments(r io.ReaderAt) (all []segment) {
	const headerSize, class64, littleEndian = 64, 2, 1
	head := make([]byte, headerSize)
	if _, err := r.ReadAt(head, 0); err != nil || string(head[:4]) != "\x7fELF" || head[4] != class64 || head[5] != littleEndian {
		return nil
	}
	le := binary.LittleEndian
	offset, size, count := le.Uint64(head[32:]), le.Uint16(head[54:]), le.Uint16(head[56:])
	one := make([]byte, 56)
	for i := range uint64(min(count, 1024)) {
		if _, err := r.ReadAt(one, int64(offset+i*uint64(size))); err != nil {
			return nil
		}
		all = append(all, segment{le.Uint32(one), le.Uint64(one[8:]), le.Uint64(one[16:]), le.Uint64(one[32:])})
	}
	return all
}

// forThisMachine reports whether a file that begins with head is a program of our
// own kind.
func forThisMachine(head []byte) bool {
	const class64, x86, arm = 2, 62, 183
	machine := map[string]uint16{"amd64": x86, "arm64": arm}[runtime.GOARCH]
	return len(head) >= 20 && string(head[:4]) == "\x7fELF" && head[4] == class64 && binary.LittleEndian.Uint16(head[18:]) == machine
}

// dynamic is what a program or library says of those that it needs.
type dynamic struct {
	needed []string
	paths  []string // DT_RPATH and DT_RUNPATH
}

const mostDynamic = 1 << 20 // bytes: no table is larger

// dynamicOf reads the dynamic section; ok is false where it cannot be told.
func dynamicOf(r io.ReaderAt) (d dynamic, ok bool) {
	all := readSegments(r)
	table := readSegment(r, findSegment(all, ptDynamic))
	if all == nil || table == nil {
		return d, all != nil
	}
	le := binary.LittleEndian
	values := map[uint64][]uint64{}
	for ; len(table) >= 16; table = table[16:] {
		tag, value := le.Uint64(table), le.Uint64(table[8:])
		if tag == 0 {
			break
		}
		values[tag] = append(values[tag], value)
	}
	if len(values[dtStrTab]) == 0 || len(values[dtStrSize]) == 0 {
		return d, len(values[dtNeeded]) == 0
	}
	at, size := values[dtStrTab][0], values[dtStrSize][0]
	var texts []byte
	for _, s := range all {
		if s.kind == ptLoad && at >= s.addr && at-s.addr <= s.size && size <= s.size-(at-s.addr) {
			texts = readSegment(r, segment{offset: s.offset + at - s.addr, size: size})
		}
	}
	if texts == nil {
		return d, false
	}
	d.needed = textsAt(texts, values[dtNeeded])
	for _, list := range textsAt(texts, append(values[dtRPath], values[dtRunPath]...)) {
		for _, path := range bytes.Split([]byte(list), []byte(":")) {
			d.paths = append(d.paths, string(path))
		}
	}
	return d, true
}

func findSegment(all []segment, kind uint32) segment {
	for _, s := range all {
		if s.kind == kind {
			return s
		}
	}
	return segment{}
}

// readSegment is nil of what is empty, or cannot be read.
func readSegment(r io.ReaderAt, s segment) []byte {
	if s.size == 0 || s.size > mostDynamic {
		return nil
	}
	data := make([]byte, s.size)
	if _, err := r.ReadAt(data, int64(s.offset)); err != nil {
		return nil
	}
	return data
}

func textsAt(table []byte, places []uint64) (all []string) {
	for _, at := range places {
		if at < uint64(len(table)) {
			text, _, _ := bytes.Cut(table[at:], []byte{0})
			all = append(all, string(text))
		}
	}
	return all
}

// elfInterpreter reads PT_INTERP.
func elfInterpreter(r io.ReaderAt) string {
	s := findSegment(readSegments(r), ptInterp)
	s.size = min(s.size, 4096)
	return string(bytes.TrimRight(readSegment(r, s), "\x00"))
}

// headSize is how much of a file the kernel looks at, BINPRM_BUF_SIZE.
const headSize = 256

// readHead reads that much, or all that there is.
func readHead(r io.ReaderAt) ([]byte, error) {
	head := make([]byte, headSize)
	n, err := r.ReadAt(head, 0)
	if err == io.EOF {
		err = nil
	}
	return head[:n], err
}

// interpreterOf reads the word after #!, or PT_INTERP.
func interpreterOf(r io.ReaderAt) string {
	head, err := readHead(r)
	if err != nil {
		return ""
	}
	if script, ok := bytes.CutPrefix(head, []byte("#!")); ok {
		line, _, _ := bytes.Cut(script, []byte("\n"))
		words := bytes.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
		if len(words) == 0 {
			return ""
		}
		return string(words[0])
	}
	return elfInterpreter(r)
}
