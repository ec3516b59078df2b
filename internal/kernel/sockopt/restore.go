package sockopt

import (
	"bytes"
	"encoding/binary"
	"unique"

	"golang.org/x/sys/unix"
)

// State is what the options of a socket were.
type State struct {
	layers layers
	device int // SO_BINDTOIFINDEX, 0: none

	// Password is what the socket wants to see with an option that it withholds.
	Password Password

	record unique.Handle[string] // of each row its size and bytes, or unread; most sockets have one of a few
}

// unread stands for the size of an option that this socket or kernel has not.
const unread = 0xff

// RecordState reads the options of fd, which no service has had yet.
func RecordState(fd int) State {
	s := State{layers: layersOf(fd), device: boundDevice(fd)}
	record := make([]byte, 0, 1024)
	var buf value
	for i := range Table {
		now, ok := s.readOption(&Table[i], fd, &buf)
		if !ok || Table[i].Form == Unreadable {
			record = append(record, unread)
			continue
		}
		record = append(append(record, byte(len(now))), now...)
	}
	s.record = unique.Make(string(record))
	return s
}

// boundDevice is the index of the interface that fd is bound to; 0: none. socket(7)
func boundDevice(fd int) int {
	index, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
	return index
}

// Moved reports whether fd is bound to another interface. Only CAP_NET_RAW could take that off.
func (s *State) Moved(fd int) bool { return boundDevice(fd) != s.device }

// Adopt has the options be from now on as they are on a fresh socket, which another configuration
// has made and which is not bound: Restore sets them. It is false, and nothing has changed, where only
// a new socket can have them.
func (s *State) Adopt(fresh *State) bool {
	if s.layers != fresh.layers || s.device != fresh.device {
		return false
	}
	old, wanted := []byte(s.record.Value()), []byte(fresh.record.Value())
	record := make([]byte, 0, len(wanted))
	for i := range Table {
		var from *[]byte = &wanted
		if Table[i].Form == Memory { // what binding took of it stays taken
			from = &old
		}
		record = append(record, firstOption(*from)...)
		old, wanted = old[len(firstOption(old)):], wanted[len(firstOption(wanted)):]
	}
	s.record = unique.Make(string(record))
	return true
}

// firstOption is the first of the options in a record.
func firstOption(record []byte) []byte {
	if record[0] == unread {
		return record[:1]
	}
	return record[:1+int(record[0])]
}

// Restore gives the options the values they had and returns the names of those
// that were changed. Stuck is one that keeps its value. Every option is read,
// which is most of the cost: 0.3 to 0.5 us each.
func (s *State) Restore(fd int) (changed []string, stuck string) {
	for pass := range 2 {
		rest := []byte(s.record.Value())
		for i := range Table {
			o := &Table[i]
			var before []byte
			size := rest[0]
			if rest = rest[1:]; size != unread {
				before, rest = rest[:size], rest[size:]
			}
			was, good := s.findChanged(fd, o, before, pass > 0)
			if !good {
				return changed, o.Text
			}
			if was {
				changed = append(changed, o.Text)
			}
		}
		if len(changed) == 0 {
			break // else the second pass looks whether one undid another
		}
	}
	return changed, ""
}

// findChanged looks at one option and restores it, unless it is only to look. Before is nil where
// it could not be read. Good is false when the option keeps another value.
func (s *State) findChanged(fd int, o *Option, before []byte, look bool) (changed, good bool) {
	var buf value
	switch {
	case o.Form == Unreadable:
		return !look && s.hasOption(o) && s.isBlank(fd, o), true
	case o.Form == Persistent:
		_, has := s.readOption(o, fd, &buf)
		return false, before != nil || !has
	case before == nil:
		return false, true
	}
	now, ok := s.readOption(o, fd, &buf)
	switch {
	case ok && bytes.Equal(now, before):
		return false, true
	case o.Form == Memory:
		return false, !ok || binary.NativeEndian.Uint32(now) <= binary.NativeEndian.Uint32(before)
	case look:
		return false, false
	}
	return true, s.restoreValue(o, fd, before)
}

// hasOption reports whether o is restored on such a socket.
func (s *State) hasOption(o *Option) bool {
	switch {
	case o.Form == Unrestored || !s.layers.haveLevel(o):
		return false
	case o.Level == unix.SOL_SOCKET && o.Name == unix.SO_BUF_LOCK && s.layers.protocol == unix.IPPROTO_MPTCP:
		return false // MPTCP shows what the sizes have set, and does not set it
	}
	return o.Use&Datagram == 0 || s.layers.protocol == unix.IPPROTO_UDP
}

func (s *State) readOption(o *Option, fd int, buf *value) ([]byte, bool) {
	if !s.hasOption(o) {
		return nil, false
	}
	return o.readValue(fd, buf)
}

// isBlank writes 0 and reports whether that can be seen to have changed it.
func (s *State) isBlank(fd int, o *Option) (changed bool) {
	var one, two value
	before, _ := o.readValue(fd, &one)
	var zero [unix.SizeofInet6Pktinfo]byte // longer than the others need
	// A sticky source is refused without the interface the socket is bound to.
	binary.NativeEndian.PutUint32(zero[16:], uint32(s.device))
	_ = o.writeValue(fd, o.Name, zero[:])
	after, _ := o.readValue(fd, &two)
	return !bytes.Equal(before, after)
}

// restoreValue writes what was read before, and reports whether it reads so again.
func (s *State) restoreValue(o *Option, fd int, before []byte) bool {
	var buf value
	reads := func() bool {
		now, ok := o.readValue(fd, &buf)
		return ok && bytes.Equal(now, before)
	}
	var number [4]byte
	switch o.Form {
	case MinusOne, Zeroed:
		if o.Form == MinusOne {
			number = [4]byte{0xff, 0xff, 0xff, 0xff}
		}
		if s.writeValue(o, fd, o.Name, number[:]) == nil && reads() {
			return true
		}
	case Halved:
		binary.NativeEndian.PutUint32(number[:], binary.NativeEndian.Uint32(before)/2)
		if s.writeValue(o, fd, o.forcedName(), number[:]) != nil {
			_ = s.writeValue(o, fd, o.Name, number[:])
		}
		return reads()
	case Lingered:
		on := append(encodeWord(1), before[4:]...)
		_ = s.writeValue(o, fd, o.Name, on)
	}
	_ = s.writeValue(o, fd, o.Name, before)
	return reads()
}

// DetachProgram removes what a service has attached, by SO_DETACH_FILTER or SO_DETACH_REUSEPORT_BPF of
// socket(7), and reports whether there was any.
func DetachProgram(fd, option int) bool {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, 0) == nil
}
