package usernotif

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A container engine, its monitor and its runtime make the calls that a container makes, and are
// behind the same filter. The mount namespace tells them apart: the engine's is known. A process
// that has entered a container has another one, and no way back.

// isEngine reports whether a thread is one of the engine itself.
func (s *Supervisor) isEngine(thread uint32) bool {
	if s.policy.Engine == 0 {
		return false
	}
	number, err := namespaceOf(thread, "mnt")
	return err == nil && number == s.policy.Engine
}

// judgeEngine answers a call of the engine. Its parts talk over unix sockets, and by netlink with
// the kernel. Other sockets it has only to hand them over.
func judgeEngine(domain int) verdict {
	if domain == unix.AF_UNIX || domain == unix.AF_NETLINK {
		return verdict{pass: true}
	}
	return verdict{errno: unix.EPERM}
}

// makeSocket answers socket(2) of an internet socket, which a container may be allowed. All
// arguments are in registers, and the thread waits: nothing can change until the kernel makes it.
func (s *Supervisor) makeSocket(n notification) verdict {
	if s.policy.Engine == 0 || s.isEngine(n.PID) || !s.isValid(n.ID) {
		return verdict{errno: unix.EAFNOSUPPORT}
	}
	return verdict{pass: true}
}

const sizeofIfreq = 40 // netdevice(7)

// raiseLoopback brings lo up in the network of the caller. Every caller may ask for it: it gains
// nothing by that.
func (s *Supervisor) raiseLoopback(r *request) verdict {
	name, _, _ := bytes.Cut(r.sockaddr[:unix.IFNAMSIZ], []byte{0})
	flags := binary.NativeEndian.Uint16(r.sockaddr[unix.IFNAMSIZ:])
	if s.policy.Engine == 0 || string(name) != "lo" || flags&unix.IFF_UP == 0 || !isInCallersNetwork(r) {
		return verdict{errno: unix.EPERM}
	}
	return verdict{errno: errnoOf(callIoctl(r.fd, unix.SIOCSIFFLAGS, unsafe.Pointer(&r.sockaddr[0])))}
}

// isInCallersNetwork reports whether a socket is in the network namespace of its thread. A
// container's network is made long after its filter, so its cookie is not known.
func isInCallersNetwork(r *request) bool {
	number, err := namespaceOf(r.PID, "net")
	if err != nil {
		return false
	}
	// SIOCGSKNS of netdevice.h needs CAP_NET_ADMIN over that network. An ordinary user lacks it over
	// the host's network, and has it over the network of a container of the same user.
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(r.fd), unix.SIOCGSKNS, 0)
	if errno != 0 {
		return false
	}
	defer func() { _ = unix.Close(int(fd)) }()
	var stat unix.Stat_t
	return unix.Fstat(int(fd), &stat) == nil && stat.Ino == number
}

// namespaceOf returns the number of a thread's namespace, namespaces(7).
func namespaceOf(thread uint32, kind string) (uint64, error) {
	var stat unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", thread, kind), &stat)
	return stat.Ino, err
}
