package listen

import (
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// state is what a socket was like before any service had it.
type state struct {
	name    string // struct sockaddr it is bound to, as getsockname(2) gives it
	options sockopt.State
	pipe    int // bytes; of a FIFO
}

func stateOf(file *os.File) (st state) {
	_ = control(file, func(fd int) error {
		st.name, st.options = rawName(fd), sockopt.RecordState(fd)
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

// mendOptions sets back what a service changed, for the log, or says what cannot
// be set back.
func (s *Socket) mendOptions() (repaired, fault string) {
	_ = control(s.front(), func(fd int) error {
		changed, stuck := s.condition().options.Restore(fd)
		if sockopt.DetachProgram(fd, unix.SO_DETACH_REUSEPORT_BPF) {
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
