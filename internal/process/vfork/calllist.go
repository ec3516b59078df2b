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

	explainNext func(unix.Errno) error // for the calls that follow
	why         []func(unix.Errno) error
	labels      []int // the call each label stands for; -1: not placed
	jumps       []jump
	free        int // the lowest descriptor that is free
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

	mostReserved = 64 << 10 // of data, in a region that is kept
)

// New returns an empty call list, whose child has no descriptors. The caller closes it.
func New() (*CallList, error) {
	select {
	case region := <-reserve:
		return &CallList{region: region, data: dataAt}, nil
	default:
	}
	region, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	return &CallList{region: region, data: dataAt}, nil
}

// reserve keeps a few regions, all zero: to take one away from a process with many
// threads interrupts all of them.
var reserve = make(chan []byte, 4)

// Close gives the memory back. The child has ended, or has memory of its own
// (execve), or was never started.
func (s *CallList) Close() {
	region := s.region
	if s.region = nil; region == nil {
		return
	}
	if s.data < dataAt+mostReserved {
		clear(region[:callsAt+(s.calls+1)*int(unsafe.Sizeof(call{}))])
		clear(region[dataAt:s.data])
		select {
		case reserve <- region:
			return
		default:
		}
	}
	_ = unix.Munmap(region)
}

// ExplainNext makes why the error of the calls that follow.
func (s *CallList) ExplainNext(why func(unix.Errno) error) { s.explainNext = why }

// Call is a call in a call list. Its methods say where the list goes on after it.
type Call struct {
	list  *CallList
	index int
}

// Label is a place in a call list.
type Label int

// Do adds a system call. After any error the call list fails, unless a method of
// the call says otherwise.
func (s *CallList) Do(number uintptr, args ...uintptr) Call {
	if s.calls == maxCalls || len(args) > 6 {
		s.err = unix.E2BIG
		return Call{s, 0}
	}
	c := s.callAt(s.calls)
	*c = call{number: number, result: notMade}
	copy(c.args[:], args)
	next := s.callAddress(s.calls + 1)
	c.positive, c.zero, c.failed = next, next, next
	s.why = append(s.why, s.explainNext)
	s.calls++
	return Call{s, s.calls - 1}
}

// Open is Do for a call that returns a new descriptor, and tells which one.
func (s *CallList) Open(number uintptr, args ...uintptr) int {
	s.Do(number, args...)
	s.free++
	return s.free - 1
}

// SetNextDescriptor says that the child has the descriptors below free by now.
func (s *CallList) SetNextDescriptor(free int) { s.free = free }

// NextDescriptor is the lowest descriptor that is free at this place.
func (s *CallList) NextDescriptor() int { return s.free }

// CloseFrom closes fd and all that were opened after it.
func (s *CallList) CloseFrom(fd int) {
	if s.free > fd {
		s.Do(unix.SYS_CLOSE_RANGE, uintptr(fd), uintptr(s.free-1), 0)
	}
	s.free = fd
}

// NewLabel returns a label, to be placed.
func (s *CallList) NewLabel() Label {
	s.labels = append(s.labels, -1)
	return Label(len(s.labels) - 1)
}

// PlaceLabel puts l before the next call.
func (s *CallList) PlaceLabel(l Label) { s.labels[l] = s.calls }

// JumpTo goes on at l without doing anything.
func (s *CallList) JumpTo(l Label) { s.Do(unix.SYS_GETPID).OnPositive(l) }

// FailWith fails with err.
func (s *CallList) FailWith(err error) {
	before := s.explainNext
	s.explainNext = func(unix.Errno) error { return err }
	s.FailAlways()
	s.explainNext = before
}

const noCall = ^uintptr(0) // ENOSYS

// FailAlways fails, with what Explain says.
func (s *CallList) FailAlways() { s.Do(noCall) }

// WorkingDirectory is the working directory, for calls with a folder.
const WorkingDirectory = uintptr(math.MaxUint64 + unix.AT_FDCWD + 1)

// IgnoreErrors lets the call list go on after these errors; none: after any.
func (c Call) IgnoreErrors(errnos ...unix.Errno) Call {
	return c.expectErrors(errnos)
}

// OnError goes on at l after these errors; none: after any.
func (c Call) OnError(l Label, errnos ...unix.Errno) Call {
	c.addJump(fieldFailed, l)
	return c.expectErrors(errnos)
}

// OnZero goes on at l after the result 0.
func (c Call) OnZero(l Label) Call { return c.addJump(fieldZero, l) }

// OnPositive goes on at l after a result above 0.
func (c Call) OnPositive(l Label) Call { return c.addJump(fieldPositive, l) }

// Result is what the call returned, in the end; negative: an errno.
func (c Call) Result() int { return c.list.callAt(c.index).result }

// notMade is the result of a call that the child has not come to.
const notMade = -int(unix.EINTR)

// SetArg changes one of its arguments.
func (c Call) SetArg(index int, value uintptr) { c.list.callAt(c.index).args[index] = value }

func (c Call) addJump(field int, l Label) Call {
	c.list.jumps = append(c.list.jumps, jump{c.index, field, l})
	return c
}

func (c Call) expectErrors(errnos []unix.Errno) Call {
	expected := &c.list.callAt(c.index).expected
	if len(errnos) == 0 {
		expected[0], expected[1] = ^uint64(0), ^uint64(0)
	}
	for _, errno := range errnos {
		expected[errno>>6] |= 1 << (errno & 63)
	}
	return c
}

// OnFailure makes what follows the calls that are made after one has failed.
func (s *CallList) OnFailure() { s.head().failure = s.callAddress(s.calls) }

func (s *CallList) head() *head { return (*head)(s.pointerAt(0)) }

func (s *CallList) callAt(index int) *call {
	return (*call)(s.pointerAt(callsAt + index*int(unsafe.Sizeof(call{}))))
}

func (s *CallList) pointerAt(offset int) unsafe.Pointer { return unsafe.Pointer(&s.region[offset]) }

func (s *CallList) callAddress(index int) uintptr {
	return s.baseAddress() + uintptr(callsAt+index*int(unsafe.Sizeof(call{})))
}

func (s *CallList) baseAddress() uintptr { return uintptr(s.pointerAt(0)) }

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
	return Buffer{s.baseAddress() + uintptr(start), s.region[start : start+n : start+n]}
}

// AddBytes copies b; no bytes have no address.
func (s *CallList) AddBytes(b []byte) uintptr {
	if len(b) == 0 {
		return 0
	}
	room := s.NewBuffer(len(b))
	copy(room.Bytes, b)
	return room.Address
}

// AddText copies text, and ends it with a zero.
func (s *CallList) AddText(text string) uintptr {
	room := s.NewBuffer(len(text) + 1)
	copy(room.Bytes, text)
	return room.Address
}

// AddWords makes an array.
func (s *CallList) AddWords(words ...uintptr) Buffer {
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

// AddTexts makes an array of texts with a zero at its end, as execve(2) wants it.
func (s *CallList) AddTexts(texts []string) []uintptr {
	words := make([]uintptr, 0, len(texts)+1)
	for _, text := range texts {
		words = append(words, s.AddText(text))
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
	*s.callAt(s.calls) = call{number: unix.SYS_EXIT_GROUP}
	for _, j := range s.jumps {
		if s.labels[j.target] < 0 {
			continue // it is further down, and comes with the rest
		}
		target := s.callAddress(s.labels[j.target])
		c := s.callAt(j.call)
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

// IsAt reports whether the child's last call so far is c.
func (s *CallList) IsAt(c Call) bool {
	return s.head().at == s.callAddress(c.index)
}

// Failure is the error of the call that failed; nil: none has.
func (s *CallList) Failure() error {
	h := s.head()
	if h.where == 0 {
		return nil
	}
	errno := unix.Errno(h.errno)
	index := int(h.where-s.callAddress(0)) / int(unsafe.Sizeof(call{}))
	if index < len(s.why) && s.why[index] != nil {
		return s.why[index](errno)
	}
	return errno
}

// cloneArgs is struct clone_args, clone(2). Without a stack the child has ours.
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal uint64
	stack, stackSize, tls, setTID, setTIDSize     uint64
	cgroup                                        uint64
}
