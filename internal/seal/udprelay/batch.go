package udprelay

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockaddr"
)

const (
	// batchSize is how many datagrams go through at once. More do not make it
	// faster, but the first ones wait longer.
	batchSize = 64

	// longest is the room for a datagram of the internet: UDP's length field has 16
	// bits. What is added keeps the buffers from falling on the same cache lines.
	longest  = 1 << 16
	slotSize = longest + 7*64
)

// mmsghdr is struct mmsghdr, recvmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32 // bytes of the datagram
}

// batches are those that no relay uses.
var batches = sync.Pool{New: func() any { return newBatch() }}

// batch is datagrams between two sockets. What was received and not yet sent
// stays in it.
type batch struct {
	data  []byte
	n     int // datagrams received
	next  int // the first that is not sent
	in    [batchSize]mmsghdr
	inIOV [batchSize]unix.Iovec
	names [batchSize]sockaddr.Raw
	ctl   [batchSize][ctlSize]byte
	flows [batchSize]*flow // of what goes to the host, or has been sent inside
	done  [batchSize]bool  // is not to be sent any more
	tries [batchSize]int   // how many programs have ended with it

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
	}
	return b
}

// isPending reports whether something waits to be sent.
func (b *batch) isPending() bool { return b.next < b.n }

func (b *batch) reset() {
	b.n, b.next, b.outN = 0, 0, 0
	b.done, b.tries = [batchSize]bool{}, [batchSize]int{}
}

// textOf is datagram i.
func (b *batch) textOf(i int) []byte { return b.data[i*slotSize:][:b.in[i].n] }

// controlOf is what came with datagram i.
func (b *batch) controlOf(i int) []byte { return b.ctl[i][:min(int(b.in[i].Controllen), ctlSize)] }

// receive appends what the socket has, at most most, and returns how many; fewer
// mean that it had no more. Never an error with datagrams. names and ctl say
// whether the address and the control messages are wanted.
func (b *batch) receive(fd, most int, names, ctl bool) (int, error) {
	for i := b.n; i < b.n+most; i++ {
		var name, control []byte
		if names {
			name = b.names[i].B[:]
		}
		if ctl {
			control = b.ctl[i][:]
		}
		b.in[i].Msghdr = newHeader(b.inIOV[i:i+1], name, control)
	}
	n, err := mmsg(unix.SYS_RECVMMSG, fd, b.in[b.n:b.n+most])
	if err != nil {
		return 0, err
	}
	for i := b.n; i < b.n+n; i++ {
		b.names[i].N = b.in[i].Namelen
	}
	b.n += n
	return n, nil
}

// newHeader makes a struct msghdr, recvmsg(2). name and control may be empty.
func newHeader(text []unix.Iovec, name, control []byte) unix.Msghdr {
	h := unix.Msghdr{Iov: &text[0], Name: unsafe.SliceData(name), Namelen: uint32(len(name)), Control: unsafe.SliceData(control)}
	h.SetIovlen(len(text))
	h.SetControllen(len(control))
	return h
}

func newIovec(b []byte) unix.Iovec {
	v := unix.Iovec{Base: unsafe.SliceData(b)}
	v.SetLen(len(b))
	return v
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

// packMessages appends datagrams from first to before end, all for the same target
// (empty: the socket's own), to what goes out. With gso, the longest segment of one, those of
// the same size become one message that the kernel takes apart at the other end of the way,
// UDP_SEGMENT, udp(7): the stack is passed once for all of them.
func (b *batch) packMessages(first, end int, to, ctl []byte, gso int) {
	for first < end {
		k := b.countAlike(first, end, gso)
		for i := first; i < first+k; i++ {
			b.outIOV[i].SetLen(int(b.in[i].n))
		}
		control := append(b.outCtl[b.outN][:0], ctl...)
		if k > 1 {
			control = appendSegment(control, uint16(b.in[first].n))
		}
		b.out[b.outN].Msghdr = newHeader(b.outIOV[first:first+k], to, control)
		first += k
		b.outEnd[b.outN] = first
		b.outN++
	}
}

// countAlike counts the datagrams from first on that can be one message: as long as
// the first, but for the last one, which may be shorter. The sum is that of one IP
// packet.
func (b *batch) countAlike(first, end, gso int) int {
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

// ctlSize has room for what comes with a datagram, and goes: IPV6_PKTINFO (40
// bytes with its header) and UDP_SEGMENT (24).
const ctlSize = 64

// controlMessage is one that is kept; empty: none.
type controlMessage struct {
	n int
	b [ctlSize]byte
}

func (c *controlMessage) bytes() []byte { return c.b[:c.n] }

func (c *controlMessage) set(b []byte) { c.n = copy(c.b[:], b) }

// appendControl appends the header of a control message and room for its data. cmsg(3): the
// newHeader makes a size_t and two ints, the data begins and ends aligned like it.
func appendControl(b []byte, level, kind, size int) (all, data []byte) {
	at := len(b)
	b = append(b, make([]byte, unix.CmsgSpace(size))...)
	h := (*unix.Cmsghdr)(unsafe.Pointer(&b[at]))
	h.SetLen(unix.CmsgLen(size))
	h.Level, h.Type = int32(level), int32(kind)
	return b, b[at+unix.CmsgLen(0):]
}

// appendSegment appends UDP_SEGMENT, udp(7).
func appendSegment(b []byte, size uint16) []byte {
	b, data := appendControl(b, unix.SOL_UDP, unix.UDP_SEGMENT, 2)
	binary.NativeEndian.PutUint16(data, size)
	return b
}

// appendFrom4 appends the control message that sends from ip, ip(7).
func appendFrom4(b []byte, ip netip.Addr) []byte {
	b, data := appendControl(b, unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
	*(*[4]byte)(data[4:]) = ip.As4()
	return b
}

// appendFrom6 is for IPv6 sockets, ip may be 4in6; link only for link-local ones.
func appendFrom6(b []byte, ip netip.Addr, link uint32) []byte {
	b, data := appendControl(b, unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
	*(*[16]byte)(data) = ip.As16()
	binary.NativeEndian.PutUint32(data[16:], link)
	return b
}

// findControl returns the data of a control message, nil without.
func findControl(b []byte, level, kind int32) []byte {
	for len(b) >= unix.SizeofCmsghdr {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return nil
		}
		if h.Level == level && h.Type == kind {
			return data
		}
		b = rest
	}
	return nil
}

func errnoOrNil(e unix.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}
