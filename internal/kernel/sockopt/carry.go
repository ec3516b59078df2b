package sockopt

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// CarryOptions gives ours what a program had set on theirs, a socket of its own that ours
// takes the place of. What ours cannot have (an option of IPv6 on a socket of IPv4) it
// does without. Of a sealed program it carries what that may set on ours itself, and to a listener of TCP
// nothing that those who wait would inherit to their harm. All outlasts the program, and is to be restored.
func CarryOptions(theirs, ours int, sealed bool) {
	has, asked := layersOf(theirs), priorityOf(ours)
	locks, _ := unix.GetsockoptInt(theirs, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	var buf value
	for i := range Table {
		o := &Table[i]
		if o.Use&Carried == 0 || sealed && (o.Use&Allowed == 0 || has.withholds(o)) || !has.haveLevel(o) {
			continue
		}
		value, ok := o.readValue(theirs, &buf)
		switch {
		case !ok:
			continue
		case o.Form == Halved:
			value, ok = bufferOf(o, value, locks)
		case o.Form == Derived:
			value, ok = askedFor(asked, priorityOf(theirs))
		default:
			ok = !o.isFresh(value)
		}
		if ok {
			_ = o.writeValue(ours, o.Name, value)
		}
	}
}

func (o *Option) isFresh(value []byte) bool {
	if len(value) < 4 { // one byte, as old options of IP are read
		return len(value) == 0 || uint32(value[0]) == o.Fresh
	}
	rest := value[4:]
	return binary.NativeEndian.Uint32(value) == o.Fresh && len(bytes.Trim(rest, "\x00")) == 0
}

// bufferOf: the kernel doubles what is asked for, socket(7), and tells in locks which
// sizes were asked for: SO_BUF_LOCK, Linux 5.14. Never by the forms that exceed
// the limits of the host.
func bufferOf(o *Option, size []byte, locks int) ([]byte, bool) {
	lock := unix.SOCK_RCVBUF_LOCK
	if o.Name == unix.SO_SNDBUF {
		lock = unix.SOCK_SNDBUF_LOCK
	}
	binary.NativeEndian.PutUint32(size, binary.NativeEndian.Uint32(size)/2)
	return size, locks&lock != 0
}

// priority is what SO_PRIORITY and IP_TOS read.
type priority struct{ value, tos int }

func priorityOf(fd int) (p priority) {
	p.value, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY)
	p.tos, _ = unix.GetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS)
	return p
}

// isAsked reports whether it has been set: whether it is another one than the kernel
// derives, rt_tos2priority().
func (p priority) isAsked() bool { return p.value != [4]int{0, 2, 6, 4}[p.tos>>3&3] }

// mostOrdinary is TC_PRIO_INTERACTIVE, the highest priority that takes no privilege. A
// program may have one in its own network and none in that of our socket. socket(7)
const mostOrdinary = 6

// askedFor is the priority to be set once IP_TOS is carried, which would change it: what the
// program asked for, else what ours had been asked for; not ok: what the kernel derives.
func askedFor(ours, theirs priority) (value []byte, ok bool) {
	switch {
	case theirs.isAsked() && uint32(theirs.value) <= mostOrdinary:
		ours = theirs
	case !ours.isAsked():
		return nil, false
	}
	return binary.NativeEndian.AppendUint32(nil, uint32(ours.value)), true
}
