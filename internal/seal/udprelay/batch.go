package udprelay

import (
	"encoding/binary"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
)

const (
	// batchSize is how many datagrams go through at once. More do not make it
	// faster, but the first ones wait longer.
	batchSize = 64

	// longest is the room for a datagram of the internet: UDP's length field has 16
	// bits. What is added keeps the buffers from falling on the same cache lines.
	longest  = 1 << 16
	slotSize = longest + 7*64

	// ctlSize has room for what comes with a datagram, and goes: IPV6_PKTINFO (40
	// bytes with its header) and UDP_SEGMENT (24).
	ctlSize = 64
)

// mmsghdr is struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32 // bytes of the datagram
}

// batches are those that nobody uses.
var batches sync.Pool

// batch is datagrams between two sockets. What was received and not yet sent
// stays in it.
type batch struct {
	data  []byte
	n     int // datagrams received
	next  int // the first that is not sent
	in    [batchSize]mmsghdr
	inIOV [batchSize]unix.Iovec
	names [batchSize]rawAddr
	ctl   [batchSize][ctlSize]byte
	flows [batchSize]*flow // of what goes to the host, or has been sent inside
	done  [batchSize]bool  // of carry: is not to be sent any more
	tries [batchSize]int   // of carry: how often it was lost with a program

	out    [batchSize]mmsghdr
	outIOV [batchSize]unix.Iovec
	outCtl [batchSize][ctlSize]byte
	outEnd [batchSize]int // the datagram after the last of this message
	outN   int
}

func newBatch() *batch {
	b := &batch{data: make([]byte, batchSize*slotSize)}
	for i := range b.in {
		b.inIOV[i].Base, b.outIOV[i].Base = &b.data[i*slotSize], &b.data[i*slotSize]
		b.inIOV[i].SetLen(longest)
		h := &b.in[i].Msghdr
		h.Iov = &b.inIOV[i]
		h.SetIovlen(1)
	}
	return b
}

// holds reports whether something waits to be sent.
func (b *batch) holds() bool { return b.next < b.n }

func (b *batch) reset() {
	b.n, b.next, b.outN = 0, 0, 0
	b.done, b.tries = [batchSize]bool{}, [batchSize]int{}
}

// receive appends what the socket has, at most most, and returns how many; fewer
// mean that it had no more. Never an error with datagrams. names and ctl say
// whether the address and the control messages are wanted.
func (b *batch) receive(fd, most int, names, ctl bool) (int, error) {
	for i := b.n; i < b.n+most; i++ {
		h := &b.in[i].Msghdr
		h.Name, h.Namelen = nil, 0
		if names {
			h.Name, h.Namelen = &b.names[i].b[0], uint32(len(b.names[i].b))
		}
		h.Control = nil
		h.SetControllen(0)
		if ctl {
			h.Control = &b.ctl[i][0]
			h.SetControllen(ctlSize)
		}
	}
	n, err := mmsg(unix.SYS_RECVMMSG, fd, b.in[b.n:b.n+most])
	if err != nil {
		return 0, err
	}
	for i := b.n; i < b.n+n; i++ {
		b.names[i].n = b.in[i].Namelen
	}
	b.n += n
	return n, nil
}

// mmsg is recvmmsg(2) or sendmmsg(2), which return without waiting: so the
// scheduler need not know.
func mmsg(call uintptr, socket int, messages []mmsghdr) (n int, err error) {
	err = fd.RetryEINTR(func() error {
		r, _, e := unix.RawSyscall6(call, uintptr(socket), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		n = int(r)
		return errnoOrNil(e)
	})
	return max(n, 0), err
}

// pack appends datagrams from first to before end, all for the same target
// (nil: the socket's own), to what goes out. With gso, the longest segment of one, those of the same size
// become one message that the kernel takes apart at the other end of the way,
// UDP_SEGMENT, udp(7): the stack is passed once for all of them.
func (b *batch) pack(first, end int, to *rawAddr, ctl []byte, gso int) {
	for first < end {
		k := b.alike(first, end, gso)
		h := &b.out[b.outN]
		h.Name, h.Namelen = nil, 0
		if to != nil {
			h.Name, h.Namelen = &to.b[0], to.n
		}
		h.Iov = &b.outIOV[first]
		h.SetIovlen(k)
		for i := first; i < first+k; i++ {
			b.outIOV[i].SetLen(int(b.in[i].n))
		}
		room := b.outCtl[b.outN][:0]
		room = append(room, ctl...)
		if k > 1 {
			room = appendSegment(room, uint16(b.in[first].n))
		}
		h.Control = nil
		if len(room) > 0 {
			h.Control = &room[0]
		}
		h.SetControllen(len(room))
		first += k
		b.outEnd[b.outN] = first
		b.outN++
	}
}

// alike counts the datagrams from first on that can be one message: as long as
// the first, but for the last one, which may be shorter. The sum is that of one IP
// packet.
func (b *batch) alike(first, end, gso int) int {
	const mostBytes = 65000
	size := int(b.in[first].n)
	if size == 0 || size > gso {
		return 1
	}
	k, sum := 1, size
	for first+k < end {
		n := int(b.in[first+k].n)
		sum += n
		if n == 0 || n > size || sum > mostBytes {
			break
		}
		k++
		if n < size {
			break
		}
	}
	return k
}

// appendSegment appends the control message UDP_SEGMENT. cmsg(3): the header is
// a size_t and two ints, the data begins and ends aligned like it.
func appendSegment(b []byte, size uint16) []byte {
	at := len(b)
	b = appendControl(b, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(b[at+unix.CmsgLen(0):], size)
	return b
}

// appendControl appends the header of a control message and room for its data.
func appendControl(b []byte, level, kind, size int) []byte {
	at := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(size))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.SetLen(unix.CmsgLen(size))
	h.Level, h.Type = int32(level), int32(kind)
	return b
}

// control finds a control message and returns its data, nil without.
func control(b []byte, level, kind int32) []byte {
	for len(b) >= unix.SizeofCmsghdr {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < unix.SizeofCmsghdr || n > len(b) {
			return nil
		}
		if h.Level == level && h.Type == kind {
			return b[unix.CmsgLen(0):n]
		}
		b = b[min(len(b), unix.CmsgSpace(n-unix.CmsgLen(0))):]
	}
	return nil
}
