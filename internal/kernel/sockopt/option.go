package sockopt

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Option is a row of the table.
type Option struct {
	Level, Name int
	Text        string // its name in the kernel's headers
	Form        Form   // how it gets the value back that it had
	Use         Use
	Fresh       uint32 // of one that is carried: what a fresh socket reads in its first 4 bytes; the rest is 0
	Key         *Key   // nil: the configuration does not set it
}

// Form is how an option is written so that it reads as it did.
type Form uint8

// The forms of the table.
const (
	AsRead     Form = iota // written as it is read
	Halved                 // the kernel doubles it; with the FORCE form first
	Lingered               // the time is written only while it is on
	MinusOne               // -1 lets the kernel decide again; else as it is read
	Zeroed                 // 0 does
	Derived                // the kernel writes it too, with IP_TOS: after that, as it is read
	Unreadable             // cannot be read, or reads other things too: 0 is written each time
	Persistent             // an error until the service sets it; never goes
	Memory                 // what options without a value took of net.core.optmem_max; never goes
	Unrestored             // nothing of it lasts on the sockets that are shared, or another row is its effect
)

// Use is what an option is for, beside being restored.
type Use uint8

// The uses of the table.
const (
	Allowed  Use = 1 << iota // a sealed service may set it
	Ignored                  // to a sealed service setting it seems to work
	Carried                  // it follows a program to the socket that it gets for its own
	Datagram                 // TCP has no use for it, so of a stream socket it is not restored
	Withheld                 // those who wait at a listener inherit it, and can be harmed by it
	Frequent                 // programs set it on each connection: it is withheld only where that costs nothing
	Own                      // a supervisor sets it on a socket of the service's own network; no pointer is in its value

	Refused Use = 0
)

// UseOf returns what an option is for; of one that no row has, Refused.
func UseOf(level, name int) Use {
	for i := range Table {
		if o := &Table[i]; o.Level == level && o.Name == name {
			return o.Use
		}
	}
	return Refused
}

// layers are what of a socket has options.
type layers struct{ domain, protocol int }

func layersOf(fd int) (l layers) {
	l.domain, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	l.protocol, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	return l
}

// haveLevel reports whether such a socket has the level of o.
func (l layers) haveLevel(o *Option) bool {
	switch o.Level {
	case unix.SOL_SOCKET:
		return true
	case unix.IPPROTO_IP: // a dual-stack socket has both
		return l.domain == unix.AF_INET || l.domain == unix.AF_INET6
	case unix.IPPROTO_IPV6, unix.AF_VSOCK: // 41, 40: nothing else has them
		return (o.Level == unix.IPPROTO_IPV6 && l.domain == unix.AF_INET6) || o.Level == l.domain
	case unix.IPPROTO_TCP:
		return l.protocol == unix.IPPROTO_TCP || l.protocol == unix.IPPROTO_MPTCP
	}
	return o.Level == l.protocol && l.domain != unix.AF_UNIX
}

// value is room for one option. What is longer differs from a fresh one anyway.
type value [64]byte

// readValue returns what the option reads, in buf.
func (o *Option) readValue(fd int, buf *value) ([]byte, bool) {
	clear(buf[:])
	size := uint32(len(buf))
	// Raw: it only waits for a process that has the socket too.
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(o.Level), uintptr(o.Name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 || int(size) > len(buf) {
		return nil, false
	}
	if o.Form == Memory {
		const at = 4 * unix.SK_MEMINFO_OPTMEM // sock_diag(7)
		return buf[at : at+4], true
	}
	return buf[:size], true
}

// writeValue sets name, which is the option's own but for its FORCE form.
func (o *Option) writeValue(fd, name int, value []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(o.Level), uintptr(name),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	if errno != 0 {
		return os.NewSyscallError("setsockopt", errno)
	}
	return nil
}

// forcedName is the form of a buffer's size that may exceed the limits of the host.
func (o *Option) forcedName() int {
	if o.Name == unix.SO_SNDBUF {
		return unix.SO_SNDBUFFORCE
	}
	return unix.SO_RCVBUFFORCE
}
