package listen

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
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
		return "", fail(s.spec.Address, "", errClosed, "")
	}
	if s.file == nil {
		return s.bindAnew("it had no descriptor")
	}
	var found []string
	if s.disown() {
		found = append(found, "the service had asked for signals about it; ended")
	}
	if s.spec.Address.Network == spec.FIFO {
		return strings.Join(found, "; "), s.restorePipeSize()
	}
	if fault := s.beyondRepair(); fault != "" {
		return s.bindAnew(fault)
	}
	if s.dropErrors() {
		found = append(found, "errors were pending on it; cleared")
	}
	if s.detachFilter() {
		found = append(found, "the service had left a packet filter on it; removed")
	}
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
	_ = control(s.front(), func(fd int) error {
		if events := pollNow(fd); events&(unix.POLLHUP|unix.POLLRDHUP) != 0 && !s.spec.Address.IsTCP() {
			// sk_shutdown is never cleared, but by TCP.
			fault = "the service had shut it down"
		}
		if s.condition().options.Moved(fd) {
			fault = "the service had bound it to another interface"
		}
		return nil
	})
	return fault
}

// dissolve connects fd to AF_UNSPEC: a datagram socket hears everybody again, a
// TCP socket is closed but keeps its address. connect(2).
func dissolve(fd int) error {
	address := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address))
	if errno != 0 {
		return errno
	}
	return nil
}

// bindAnew closes the descriptor, so that its address is free, and opens the
// spec again. Who waited in the old queue is lost. What a service did to a
// relay socket costs only that: the host's socket keeps its queue.
func (s *Socket) bindAnew(fault string) (string, error) {
	if s.relay != nil {
		return s.retire(fault)
	}
	if s.node != nil {
		s.node.remove()
	}
	if s.file != nil {
		if s.watcher != nil {
			s.watcher.leave(s)
		}
		_ = s.release(s.file)
		s.file = nil
	}
	made, err := s.openAgain()
	if err != nil {
		return fault, err
	}
	if err := s.replace(made); err != nil {
		return fault, err
	}
	s.rewatch(true)
	return fault + "; bound anew", nil
}

// retire drops a relay socket that a service has ruined; the next Lend makes
// another one over the same socket of the host, which is watched until then. Who waits in
// its queue is [Socket.Undelivered], and comes first there.
func (s *Socket) retire(fault string) (string, error) {
	if s.watcher != nil {
		if err := s.watcher.move(s, s.file); err != nil {
			return fault, fail(s.spec.Address, "", err, "")
		}
	}
	s.generation++
	if err := s.dropRelaySocket(); err != nil {
		return fault, fail(s.spec.Address, "relay socket", err, "")
	}
	return fault + "; its relay socket is made anew", nil
}

func (s *Socket) openAgain() (made opened, err error) {
	from := &stock{means: s.means}
	defer from.close()
	only := []spec.Socket{s.spec}
	if err := from.fill(only); err != nil {
		return opened{}, err
	}
	withModes(only, func() { made, err = openSpec(s.spec, from) })
	return made, err
}

// mendListener listens again. On a healthy listener that sets only the backlog
// (and the credentials clients see, unix(7)) back to ours.
func (s *Socket) mendListener() (string, error) {
	a := s.spec.Address
	listening, right := false, false
	err := s.control("getsockopt", func(fd int) error {
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		listening = n != 0
		if err == nil && !listening && a.IsTCP() {
			// Whatever it is connected to now: tcp_disconnect() keeps the port.
			_ = dissolve(fd)
		}
		right = s.boundRight(fd)
		return err
	})
	if err != nil {
		return "", err
	}
	// Before it listens again: some options can be set back only now, and
	// SO_REUSEPORT would let others in.
	repaired, fault := s.mendOptions()
	if fault != "" {
		return s.bindAnew(fault)
	}
	if !right {
		return s.bindAnew("the service had bound it elsewhere")
	}
	if err := startListening(s.front(), s.spec); err != nil {
		if listening {
			return "", err
		}
		return s.bindAnew("the service had shut it down")
	}
	if listening {
		return repaired, nil
	}
	return also("the service had shut down or dissolved the listener; listening again", repaired), nil
}

// mendDatagram dissolves what the service connected: only that peer would be
// heard.
func (s *Socket) mendDatagram() (string, error) {
	connected, right := false, false
	err := s.control("connect", func(fd int) error {
		if _, err := unix.Getpeername(fd); err == nil {
			connected = true
			if err := dissolve(fd); err != nil {
				return err
			}
		}
		right = s.boundRight(fd)
		return nil
	})
	if err != nil || (connected && !right) {
		return s.bindAnew("the service had connected it")
	}
	repaired, fault := s.mendOptions()
	switch {
	case fault != "":
		return s.bindAnew(fault)
	case !right:
		return s.bindAnew("the service had bound it elsewhere")
	case connected:
		return also("the service had connected it; dissolved", repaired), nil
	}
	return repaired, nil
}

// also joins what was found, for the log.
func also(what, more string) string {
	if more == "" {
		return what
	}
	return what + "; " + more
}

// boundRight reports whether the socket still has the address it had.
func (s *Socket) boundRight(fd int) bool { return rawName(fd) == s.condition().name }

// condition is what the front was like when it was made.
func (s *Socket) condition() *state {
	if s.relay != nil {
		return &s.relayState
	}
	return &s.state
}

// dropErrors clears SO_ERROR and the error queue (IP_RECVERR, timestamps),
// which would make the socket look readable for ever. ip(7).
func (s *Socket) dropErrors() (dropped bool) {
	_ = control(s.front(), func(fd int) error {
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

func (s *Socket) detachFilter() (detached bool) {
	_ = control(s.front(), func(fd int) error {
		detached = sockopt.DetachProgram(fd, unix.SO_DETACH_FILTER)
		return nil
	})
	return detached
}

func (s *Socket) restorePipeSize() error {
	size := s.state.pipe
	return s.control("fcntl", func(fd int) error {
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

func pollNow(socket int) int16 {
	ready, _ := fd.Poll(socket, unix.POLLIN|unix.POLLRDHUP, 0)
	return ready
}

// MendNode puts the node back when somebody deleted or replaced it: as a link to
// the spare, the very same socket with its queue, or bound anew where the spare
// is gone too (see [Socket.Generation]). It returns what it found and did, for
// the log; "" when the node is in its place. What stands there now and is not a
// dead socket is never removed: that is an *OccupiedError, and once it goes the
// watcher tells.
func (s *Socket) MendNode() (what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", fail(s.spec.Address, "", errClosed, "")
	}
	if s.node == nil || s.file == nil {
		return "", nil
	}
	if s.inPlace() {
		s.rewatch(true)
		return "", nil
	}
	// Watch what is there first: if it cannot be healed now, the next change of
	// it is not missed.
	s.rewatch(false)
	what, err = s.heal()
	if err == nil {
		s.rewatch(true)
	}
	return what, fail(s.spec.Address, "", err, "")
}

// inPlace reports whether the node stands at its path, and makes a spare that is missing.
func (s *Socket) inPlace() (there bool) {
	s.node.withSpot(func(at spot) {
		there = at.is(at.Name, s.node.id)
		if there && s.node.made && !at.is(at.spare(), s.node.id) {
			s.node.makeSpare(at)
		}
	})
	return there
}

func (s *Socket) heal() (string, error) {
	path := s.node.path
	found := fmt.Sprintf("%s was deleted", path)
	linked, err := false, error(nil)
	exactModes(func() {
		var at spot
		if at, err = makeSpot(path, &s.spec.Options); err != nil {
			return
		}
		defer at.Close()
		if _, err := at.id(at.Name); err == nil {
			found = fmt.Sprintf("%s was replaced", path)
		}
		linked, err = s.linkBack(at)
	})
	if err != nil {
		return found, err
	}
	if linked {
		return found + "; linked back, the queue is kept", nil
	}
	before := s.node
	if !before.fifo {
		before.removeSpare() // it could not be linked, and looks alive to openSpec
	}
	made, err := s.openAgain()
	if err != nil {
		return found, err
	}
	before.removeSpare()
	if err := s.replace(made); err != nil {
		return found, err
	}
	return found + "; bound anew, who waited in the old queue or holds the old socket is cut off", nil
}

// linkBack makes the node from the spare, unless something stands there.
func (s *Socket) linkBack(at spot) (linked bool, err error) {
	defer at.lock(s.means.Warn)()
	if !s.node.fifo {
		if err := at.clearStale(at.Name); err != nil {
			return false, err
		}
	}
	if !at.is(at.spare(), s.node.id) {
		return false, nil
	}
	err = at.link(at.spare(), at.Name)
	if err == unix.EEXIST && !s.node.fifo {
		return false, &OccupiedError{Path: at.path, What: "something that has just come"}
	}
	return err == nil && at.is(at.Name, s.node.id), nil
}

// rewatch sets the watches of our folders anew: they may be other folders now.
func (s *Socket) rewatch(mended bool) {
	if s.watcher != nil && s.node != nil {
		_ = s.watcher.rewatch(s, mended)
	}
}
