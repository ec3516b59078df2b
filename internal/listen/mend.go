package listen

import (
	"errors"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// Mend puts right what an instance that has ended did to the socket it shared
// with us: shut it down, dissolved or connected it, bound it to a device, left a
// packet filter, errors or options on it. It returns what it found and did, for the log;
// "" when nothing was wrong. Only while no process has the socket. After an
// error the socket may have no descriptor: the next Mend tries again.
func (s *Socket) Mend() (what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", wrapError(s.spec.Address, "", errClosed, "")
	}
	if s.file == nil {
		return s.bindAnew("it had no descriptor")
	}
	var found []string
	if s.endSignals() {
		found = append(found, "the service had asked for signals about it; ended")
	}
	if s.spec.Address.Network == spec.FIFO {
		changed, err := s.restoreFIFO()
		if changed != "" {
			found = append(found, changed)
		}
		return strings.Join(found, "; "), err
	}
	if fault := s.beyondRepair(); fault != "" {
		return s.bindAnew(fault)
	}
	if s.dropErrors() {
		found = append(found, "errors were pending on it; cleared")
	}
	_ = control(s.frontFile(), func(fd int) error {
		if sockopt.DetachProgram(fd, unix.SO_DETACH_FILTER) {
			found = append(found, "the service had left a packet filter on it; removed")
		}
		return nil
	})
	var repaired string
	if s.spec.Address.IsStream() {
		repaired, err = s.mendListener()
	} else {
		repaired, err = s.mendDatagram()
	}
	if repaired != "" {
		found = append(found, repaired)
	}
	return strings.Join(found, "; "), err
}

// beyondRepair says why only a new socket helps; "" when this one will do.
func (s *Socket) beyondRepair() (fault string) {
	_ = control(s.frontFile(), func(fd int) error {
		if events := pollNow(fd); events&(unix.POLLHUP|unix.POLLRDHUP) != 0 && !s.spec.Address.IsTCP() {
			// sk_shutdown is never cleared, but by TCP.
			fault = "the service had shut it down"
		}
		if s.relay != nil && s.relay.Refilled() {
			fault = "the service had sent to it itself"
		}
		if s.frontState().options.Moved(fd) {
			fault = "the service had bound it to another interface"
		}
		return nil
	})
	return fault
}

// disconnect connects fd to AF_UNSPEC: a datagram socket hears everybody again, a
// TCP socket is closed but keeps its address. connect(2).
func disconnect(fd int) error {
	address := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address))
	if errno != 0 {
		return errno
	}
	return nil
}

// bindAnew closes the descriptor, so that its address is free, and opens the
// spec again. The clients in the old queue are lost. What a service did to a
// relay socket costs only that: the host's socket keeps its queue.
func (s *Socket) bindAnew(fault string) (string, error) {
	if s.relay != nil {
		return s.retireRelay(fault)
	}
	if s.node != nil {
		s.node.removeNames()
	}
	old := s.file
	if old != nil {
		s.interest.leaveFile()
		s.file = nil
	}
	if old != nil && !s.spec.Address.IsInternet() {
		_ = s.endFile(old)
		old = nil
	}
	made, err := s.openAgain(old)
	if old != nil { // after the new one is bound: at no time the port is free
		_ = s.endFile(old)
	}
	if err != nil {
		return fault, err
	}
	if err := s.replaceFile(made); err != nil {
		return fault, err
	}
	s.interest.rewatchNode(s.node, true)
	return fault + "; bound anew", nil
}

// retireRelay drops a relay socket that a service has ruined; the next Lend makes
// another one over the same socket of the host, which is watched until then. What waits in
// its queue is [Socket.Undelivered], and comes first there.
func (s *Socket) retireRelay(fault string) (string, error) {
	if err := s.interest.moveTo(s.file); err != nil {
		return fault, wrapError(s.spec.Address, "", err, "")
	}
	s.generation++
	if err := s.dropRelaySocket(); err != nil {
		return fault, wrapError(s.spec.Address, "relay socket", err, "")
	}
	return fault + "; its relay socket is made anew", nil
}

// openAgain opens the spec once more, beside old, which may be nil.
func (s *Socket) openAgain(old *os.File) (made boundSocket, err error) {
	from := &pool{means: s.means}
	defer from.close()
	err = from.openEach([]spec.Socket{s.spec}, func(want spec.Socket) error {
		made, err = openBeside(want, from, old, s.placeholder)
		return err
	})
	return made, err
}

// mendListener listens again. On a healthy listener that sets only the backlog
// (and the credentials clients see, unix(7)) back to ours.
func (s *Socket) mendListener() (string, error) {
	a := s.spec.Address
	listening, right := false, false
	err := s.controlFront("getsockopt", func(fd int) error {
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		listening = n != 0
		if err == nil && !listening && a.IsTCP() {
			// Whatever it is connected to now: tcp_disconnect() keeps the port.
			_ = disconnect(fd)
		}
		right = s.boundRight(fd)
		return err
	})
	if err != nil {
		return "", err
	}
	// Before it listens again: some options can be set back only now, and
	// SO_REUSEPORT would let others in.
	repaired, fault := s.mendOptions(right)
	if fault != "" {
		return s.bindAnew(fault)
	}
	if err := s.listenAgain(listening); err != nil {
		if listening {
			return "", err
		}
		return s.bindAnew("the service had shut it down")
	}
	if listening {
		return repaired, nil
	}
	return joinFound("the service had shut down or dissolved the listener; listening again", repaired), nil
}

// listenAgain sets the backlog, and makes a socket listen that does not.
func (s *Socket) listenAgain(listening bool) error {
	if s.placeholder != nil && !listening {
		defer sharePort(s.spec, s.file, s.placeholder)()
	}
	return startListening(s.frontFile(), s.spec)
}

// mendDatagram dissolves what the service connected: only that peer would be
// heard.
func (s *Socket) mendDatagram() (string, error) {
	connected, right := false, false
	err := s.controlFront("connect", func(fd int) error {
		if _, err := unix.Getpeername(fd); err == nil {
			connected = true
			if err := disconnect(fd); err != nil {
				return err
			}
		}
		right = s.boundRight(fd)
		return nil
	})
	if err != nil || (connected && !right) {
		return s.bindAnew("the service had connected it")
	}
	repaired, fault := s.mendOptions(right)
	switch {
	case fault != "":
		return s.bindAnew(fault)
	case connected:
		return joinFound("the service had connected it; dissolved", repaired), nil
	}
	return repaired, nil
}

// joinFound joins what was found, for the log.
func joinFound(what, more string) string {
	if more == "" {
		return what
	}
	return what + "; " + more
}

// boundRight reports whether the socket still has the address it had.
func (s *Socket) boundRight(fd int) bool { return rawName(fd) == s.frontState().name }

// frontState is what the front was like when it was made.
func (s *Socket) frontState() *socketState {
	if s.relay != nil {
		return &s.relayState
	}
	return &s.state
}

// dropErrors clears SO_ERROR and the error queue (IP_RECVERR, timestamps),
// which would make the socket look readable for ever. ip(7).
func (s *Socket) dropErrors() (dropped bool) {
	_ = control(s.frontFile(), func(fd int) error {
		if pollNow(fd)&unix.POLLERR == 0 {
			return nil
		}
		dropped = true
		_, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		var buf, control [1]byte
		for range maxRefused {
			_, _, _, _, err := unix.Recvmsg(fd, buf[:], control[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil && err != unix.EINTR {
				break
			}
		}
		return nil
	})
	return dropped
}

// restoreFIFO sets back who may open the FIFO, and its size.
func (s *Socket) restoreFIFO() (what string, err error) {
	err = s.controlFront("access", func(fd int) (err error) {
		what, err = s.state.access.restore(fd)
		return err
	})
	return what, errors.Join(err, s.restorePipeSize())
}

func (s *Socket) restorePipeSize() error {
	size := s.state.pipe
	return s.controlFront("fcntl", func(fd int) error {
		now, err := unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		if err != nil || now == size {
			return err
		}
		_, err = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, size)
		if errors.Is(err, unix.EBUSY) {
			return nil // more is in it than fits: the next time
		}
		return err
	})
}

// mendOptions sets back what a service changed, for the log, or says what cannot
// be set back; right tells whether the socket has its address.
func (s *Socket) mendOptions(right bool) (repaired, fault string) {
	_ = control(s.frontFile(), func(fd int) error {
		changed, stuck := s.frontState().options.Restore(fd)
		if sockopt.DetachProgram(fd, unix.SO_DETACH_REUSEPORT_BPF) {
			changed = append(changed, "a program that chooses among reuse_port sockets")
		}
		switch {
		case stuck != "":
			fault = "the service had set " + stuck
		case !right:
			fault = "the service had bound it elsewhere"
		case len(changed) > 0:
			repaired = "the service had set " + strings.Join(changed, ", ") + "; set back"
		}
		return nil
	})
	return repaired, fault
}

// endSignals ends signals about the socket, to whatever process has the number by
// now: SIGIO with O_ASYNC, SIGURG without. fcntl(2).
func (s *Socket) endSignals() (disowned bool) {
	_ = control(s.frontFile(), func(fd int) error {
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
