package vfork

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CallList is a list of system calls. It is one goroutine's; its memory is outside
// of the heap and the child's too, until the child has exec'ed or ended.
type CallList struct {
	region []byte
	calls  int // made so far
	data   int // offset of the next free byte behind the calls
	err    error

	explain func(unix.Errno) error // for the calls that follow
	why     []func(unix.Errno) error
	labels  []int // the call each label stands for; -1: not placed
	jumps   []jump
	free    int // the lowest descriptor that is free
}

// jump is a field of a call that becomes the address of a label's call.
type jump struct {
	call   int
	field  int
	target Label
}

// call is one system call. Its layout is known to child_*.s.
type call struct {
	number   uintptr
	args     [6]uintptr
	positive uintptr // the next call after a result above 0; 0: the end
	zero     uintptr // after the result 0
	failed   uintptr // after an errno of expected
	expected [2]uint64
	result   int // negative: an errno
}

// head is at the beginning of the region, and known to child_*.s as well.
type head struct {
	at      uintptr // the call that is being made
	where   uintptr // the call that failed; 0: none
	errno   uintptr
	failure uintptr // where to go on after it
	pidfd   int32   // of the child
	args    cloneArgs
}

const (
	fieldPositive = iota
	fieldZero
	fieldFailed
)

// The region: what is never touched takes no memory. Arguments and environment
// may have 2 MiB and more, execve(2).
const (
	callsAt  = int(unsafe.Sizeof(head{}))
	dataAt   = callsAt + maxCalls*int(unsafe.Sizeof(call{}))
	maxCalls = 16384
	size     = 16 << 20

	mostSpare = 64 << 10 // of data, in a region that is kept
)

// New returns an empty call list, whose child has no descriptors. The caller closes it.
func New() (*CallList, error) {
	select {
	case region := <-spare:
		return &CallList{region: region, data: dataAt}, nil
	default:
	}
	region, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &CallList{region: region, data: dataAt}, nil
}

// spare keeps a few regions, all zero: to take one away from a process with many
// threads interrupts all of them.
var spare = make(chan []byte, 4)

// Close gives the memory back. The child has ended, or has memory of its own
// (execve), or was never started.
func (s *CallList) Close() {
	region := s.region
	if s.region = nil; region == nil {
		return
	}
	if s.data < dataAt+mostSpare {
		clear(region[:callsAt+(s.calls+1)*int(unsafe.Sizeof(call{}))])
		clear(region[dataAt:s.data])
		select {
		case spare <- region:
			return
		default:
		}
	}
	_ = unix.Munmap(region)
}

// Explain says what is to be told when one of the calls that follow fails.
func (s *CallList) Explain(why func(unix.Errno) error) { s.explain = why }

// Call is a call in a call list, which can be told how to go on.
type Call struct {
	script *CallList
	index  int
}

// Label is a place in a call list.
type Label int

// Do adds a system call. After any error the call list fails, unless the call is told
// otherwise.
func (s *CallList) Do(number uintptr, args ...uintptr) Call {
	if s.calls == maxCalls || len(args) > 6 {
		s.err = unix.E2BIG
		return Call{s, 0}
	}
	c := s.call(s.calls)
	*c = call{number: number, result: notMade}
	copy(c.args[:], args)
	next := s.address(s.calls + 1)
	c.positive, c.zero, c.failed = next, next, next
	s.why = append(s.why, s.explain)
	s.calls++
	return Call{s, s.calls - 1}
}

// Open is Do for a call that returns a new descriptor, and tells which one.
func (s *CallList) Open(number uintptr, args ...uintptr) int {
	s.Do(number, args...)
	s.free++
	return s.free - 1
}

// SetFree says that the child has the descriptors below free by now.
func (s *CallList) SetFree(free int) { s.free = free }

// Free is the lowest descriptor that is free at this place.
func (s *CallList) Free() int { return s.free }

// CloseFrom closes fd and all that were opened after it.
func (s *CallList) CloseFrom(fd int) {
	if s.free > fd {
		s.Do(unix.SYS_CLOSE_RANGE, uintptr(fd), uintptr(s.free-1), 0)
	}
	s.free = fd
}

// Label returns a label, to be placed.
func (s *CallList) Label() Label {
	s.labels = append(s.labels, -1)
	return Label(len(s.labels) - 1)
}

// Place puts l before the next call.
func (s *CallList) Place(l Label) { s.labels[l] = s.calls }

// Jump goes on at l without doing anything.
func (s *CallList) Jump(l Label) { s.Do(unix.SYS_GETPID).Positive(l) }

// Refuse fails with err.
func (s *CallList) Refuse(err error) {
	before := s.explain
	s.explain = func(unix.Errno) error { return err }
	s.Fail()
	s.explain = before
}

const noCall = ^uintptr(0) // ENOSYS

// Fail fails, with what Explain says.
func (s *CallList) Fail() { s.Do(noCall) }

// Here is the working directory, for calls with a folder.
const Here = uintptr(math.MaxUint64 + unix.AT_FDCWD + 1)

// Ignore lets the call list go on after these errors; none: after any.
func (c Call) Ignore(errnos ...unix.Errno) Call {
	return c.expect(errnos)
}

// Failed goes on at l after these errors; none: after any.
func (c Call) Failed(l Label, errnos ...unix.Errno) Call {
	c.jump(fieldFailed, l)
	return c.expect(errnos)
}

// Zero goes on at l after the result 0.
func (c Call) Zero(l Label) Call { return c.jump(fieldZero, l) }

// Positive goes on at l after a result above 0.
func (c Call) Positive(l Label) Call { return c.jump(fieldPositive, l) }

// Result is what the call returned, in the end; negative: an errno.
func (c Call) Result() int { return c.script.call(c.index).result }

// notMade is the result of a call that the child has not come to.
const notMade = -int(unix.EINTR)

// SetArg changes one of its arguments.
func (c Call) SetArg(index int, value uintptr) { c.script.call(c.index).args[index] = value }

func (c Call) jump(field int, l Label) Call {
	c.script.jumps = append(c.script.jumps, jump{c.index, field, l})
	return c
}

func (c Call) expect(errnos []unix.Errno) Call {
	expected := &c.script.call(c.index).expected
	if len(errnos) == 0 {
		expected[0], expected[1] = ^uint64(0), ^uint64(0)
	}
	for _, errno := range errnos {
		expected[errno>>6] |= 1 << (errno & 63)
	}
	return c
}

// OnFailure makes what follows the calls that are made after one has failed.
func (s *CallList) OnFailure() { s.head().failure = s.address(s.calls) }

func (s *CallList) head() *head { return (*head)(s.at(0)) }

func (s *CallList) call(index int) *call {
	return (*call)(s.at(callsAt + index*int(unsafe.Sizeof(call{}))))
}

func (s *CallList) at(offset int) unsafe.Pointer { return unsafe.Pointer(&s.region[offset]) }

func (s *CallList) address(index int) uintptr {
	return s.base() + uintptr(callsAt+index*int(unsafe.Sizeof(call{})))
}

func (s *CallList) base() uintptr { return uintptr(s.at(0)) }

// Buffer is memory that the calls get by its address.
type Buffer struct {
	Address uintptr
	Bytes   []byte
}

// NewBuffer returns n bytes, all zero.
func (s *CallList) NewBuffer(n int) Buffer {
	start := (s.data + 7) &^ 7
	if n > len(s.region)-start {
		s.err = unix.E2BIG
		return Buffer{Bytes: make([]byte, n)}
	}
	s.data = start + n
	return Buffer{s.base() + uintptr(start), s.region[start : start+n : start+n]}
}

// Bytes copies b; no bytes have no address.
func (s *CallList) Bytes(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	room := s.NewBuffer(len(b))
	copy(room.Bytes, b)
	return room.Address
}

// Text copies text, and ends it with a zero.
func (s *CallList) Text(text string) uintptr {
	room := s.NewBuffer(len(text) + 1)
	copy(room.Bytes, text)
	return room.Address
}

// Words makes an array.
func (s *CallList) Words(words ...uintptr) Buffer {
	room := s.NewBuffer(8 * len(words))
	room.SetWords(words...)
	return room
}

// SetWords writes over the beginning of room.
func (r Buffer) SetWords(words ...uintptr) {
	for i, word := range words {
		binary.NativeEndian.PutUint64(r.Bytes[8*i:], uint64(word))
	}
}

// Texts makes an array of texts with a zero at its end, as execve(2) wants it.
func (s *CallList) Texts(texts []string) []uintptr {
	words := make([]uintptr, 0, len(texts)+1)
	for _, text := range texts {
		words = append(words, s.Text(text))
	}
	return append(words, 0)
}

// Err tells of a list that is too long, or of texts that are.
func (s *CallList) Err() error {
	if s.err != nil {
		return fmt.Errorf("a list of system calls: %w", s.err)
	}
	return nil
}

// Finish makes what was added part of what the child does, which may have begun: it
// waits then in the last call that was added before, for something that we do after this.
func (s *CallList) Finish() error {
	if err := s.Err(); err != nil {
		return err
	}
	*s.call(s.calls) = call{number: unix.SYS_EXIT_GROUP}
	for _, j := range s.jumps {
		if s.labels[j.target] < 0 {
			continue // it is further down, and comes with the rest
		}
		target := s.address(s.labels[j.target])
		c := s.call(j.call)
		switch j.field {
		case fieldPositive:
			c.positive = target
		case fieldZero:
			c.zero = target
		case fieldFailed:
			c.failed = target
		}
	}
	return nil
}

// At reports whether the child's last call so far is c.
func (s *CallList) At(c Call) bool {
	return s.head().at == s.address(c.index)
}

// Failure is what the call that failed wants to be told; nil: none has.
func (s *CallList) Failure() error {
	h := s.head()
	if h.where == 0 {
		return nil
	}
	errno := unix.Errno(h.errno)
	index := int(h.where-s.address(0)) / int(unsafe.Sizeof(call{}))
	if index < len(s.why) && s.why[index] != nil {
		return s.why[index](errno)
	}
	return errno
}
