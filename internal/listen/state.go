package listen

import (
	"bytes"
	"encoding/binary"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// state is what a socket was like before any service had it.
type state struct {
	name   string // struct sockaddr it is bound to, as getsockname(2) gives it
	device int    // SO_BINDTOIFINDEX, 0: none
	levels levels
	record []byte // of each of lastings its size and bytes, or unread; blind ones too
	pipe   int    // bytes; of a FIFO
}

// unread stands for the size of an option that this socket or kernel has not.
const unread = 0xff

func stateOf(file *os.File) (st state) {
	_ = control(file, func(fd int) error {
		st.name = rawName(fd)
		st.device, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		st.levels = levelsOf(fd)
		st.record = make([]byte, 0, 1024)
		var buf value
		for i := range lastings {
			now, ok := lastings[i].read(fd, st.levels, &buf)
			if !ok || lastings[i].how() == blind {
				st.record = append(st.record, unread)
				continue
			}
			st.record = append(append(st.record, byte(len(now))), now...)
		}
		st.record = bytes.Clone(st.record)
		return nil
	})
	return st
}

// rawName returns the bytes of the address fd is bound to, "" for none.
func rawName(fd int) string {
	var buf [unix.SizeofSockaddrAny]byte
	size := uint32(len(buf))
	_, _, errno := unix.Syscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return ""
	}
	return string(buf[:min(int(size), len(buf))])
}

// levels are the layers of a socket that have options.
type levels struct{ domain, protocol int }

func levelsOf(fd int) (l levels) {
	l.domain, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	l.protocol, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return l
}

func (l levels) have(o *lasting) bool {
	if o.back&gram != 0 && l.protocol != unix.IPPROTO_UDP {
		return false
	}
	switch level := o.level; level {
	case unix.SOL_SOCKET:
		return true
	case unix.IPPROTO_IP: // a dual-stack socket has both
		return l.domain == unix.AF_INET || l.domain == unix.AF_INET6
	case unix.IPPROTO_IPV6, unix.AF_VSOCK: // 41, 40: nothing else has them
		return (level == unix.IPPROTO_IPV6 && l.domain == unix.AF_INET6) || level == l.domain
	case unix.IPPROTO_TCP:
		return l.protocol == unix.IPPROTO_TCP || l.protocol == unix.IPPROTO_MPTCP
	}
	return o.level == l.protocol && l.domain != unix.AF_UNIX
}

func (o *lasting) how() way { return o.back &^ gram }

// value is room for one option. What is longer differs from a fresh one anyway.
type value [64]byte

// read returns what the option reads, in buf.
func (o *lasting) read(fd int, l levels, buf *value) ([]byte, bool) {
	if !l.have(o) {
		return nil, false
	}
	clear(buf[:])
	size := uint32(len(buf))
	// Raw: it only waits for somebody who has the socket too.
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(o.name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || int(size) > len(buf) {
		return nil, false
	}
	if o.back == optmem {
		const at = 4 * unix.SK_MEMINFO_OPTMEM // sock_diag(7)
		return buf[at : at+4], true
	}
	return buf[:size], true
}

func (o *lasting) write(fd int, name int, value []byte) error {
	var at unsafe.Pointer
	if len(value) > 0 {
		at = unsafe.Pointer(&value[0])
	}
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.level), uintptr(name), uintptr(at), uintptr(len(value)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// setBack gives the options the values they had and returns the names of those
// that were changed. Stuck is one that keeps its value. Every option is read,
// which is most of the cost: 0.3 to 0.5 us each.
func (st *state) setBack(fd int) (changed []string, stuck string) {
	for pass := range 2 {
		rest := st.record
		for i := range lastings {
			var before []byte
			size := rest[0]
			if rest = rest[1:]; size != unread {
				before, rest = rest[:size], rest[size:]
			}
			o := &lastings[i]
			was, good := st.check(fd, o, before, size != unread, pass > 0)
			if !good {
				return changed, o.text
			}
			if was {
				changed = append(changed, o.text)
			}
		}
		if len(changed) == 0 {
			break // else the second pass looks whether one undid another
		}
	}
	return changed, ""
}

// check looks at one option and sets it back, unless it is only to look. Good
// is false when the option keeps another value.
func (st *state) check(fd int, o *lasting, before []byte, had, look bool) (changed, good bool) {
	var buf value
	switch {
	case o.how() == blind:
		return !look && st.levels.have(o) && st.blank(fd, o), true
	case o.back == appears:
		_, has := o.read(fd, st.levels, &buf)
		return false, had || !has
	case !had:
		return false, true
	}
	now, ok := o.read(fd, st.levels, &buf)
	switch {
	case ok && bytes.Equal(now, before):
		return false, true
	case o.back == optmem:
		return false, !ok || binary.NativeEndian.Uint32(now) <= binary.NativeEndian.Uint32(before)
	case look:
		return false, false
	}
	return true, o.restore(fd, st.levels, before)
}

// blank writes 0 and reports whether that can be seen to have changed it.
func (st *state) blank(fd int, o *lasting) (changed bool) {
	var one, two value
	before, _ := o.read(fd, st.levels, &one)
	var zero [unix.SizeofInet6Pktinfo]byte // longer than the others need
	// A sticky source is refused without the interface the socket is bound to.
	binary.NativeEndian.PutUint32(zero[16:], uint32(st.device))
	_ = o.write(fd, o.name, zero[:])
	after, _ := o.read(fd, st.levels, &two)
	return !bytes.Equal(before, after)
}

// restore writes what was read before, and reports whether it reads so again.
func (o *lasting) restore(fd int, l levels, before []byte) bool {
	var buf value
	reads := func() bool {
		now, ok := o.read(fd, l, &buf)
		return ok && bytes.Equal(now, before)
	}
	var number [4]byte
	switch o.back {
	case minusOne, zeroInt:
		if o.back == minusOne {
			number = [4]byte{0xff, 0xff, 0xff, 0xff}
		}
		if o.write(fd, o.name, number[:]) == nil && reads() {
			return true
		}
	case halved:
		binary.NativeEndian.PutUint32(number[:], binary.NativeEndian.Uint32(before)/2)
		force := unix.SO_RCVBUFFORCE
		if o.name == unix.SO_SNDBUF {
			force = unix.SO_SNDBUFFORCE
		}
		if o.write(fd, force, number[:]) != nil {
			_ = o.write(fd, o.name, number[:])
		}
		return reads()
	case lingered:
		on := unix.Linger{Onoff: 1, Linger: int32(binary.NativeEndian.Uint32(before[4:]))}
		_ = unix.SetsockoptLinger(fd, o.level, o.name, &on)
	}
	_ = o.write(fd, o.name, before)
	return reads()
}

// mendOptions sets back what a service changed, for the log, or says what cannot
// be set back.
func (s *Socket) mendOptions() (repaired, fault string) {
	_ = control(s.front(), func(fd int) error {
		changed, stuck := s.condition().setBack(fd)
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0) == nil {
			changed = append(changed, "a program that chooses among reuse_port sockets")
		}
		if stuck != "" {
			fault = "the service had set " + stuck
		} else if len(changed) > 0 {
			repaired = "the service had set " + strings.Join(changed, ", ") + "; set back"
		}
		return nil
	})
	return repaired, fault
}

// disown ends signals about the socket, to whatever process has the number by
// now: SIGIO with O_ASYNC, SIGURG without. fcntl(2).
func (s *Socket) disown() (disowned bool) {
	_ = control(s.front(), func(fd int) error {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err == nil && flags&unix.O_ASYNC != 0 {
			disowned = true
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags&^unix.O_ASYNC)
		}
		if signal, err := unix.FcntlInt(uintptr(fd), unix.F_GETSIG, 0); err == nil && signal != 0 {
			disowned = true
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETSIG, 0)
		}
		var owner struct{ kind, pid int32 } // struct f_owner_ex
		_, _, errno := unix.Syscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETOWN_EX, uintptr(unsafe.Pointer(&owner)))
		if errno == 0 && owner.pid != 0 {
			disowned = true
			_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETOWN, 0)
		}
		return nil
	})
	return disowned
}
