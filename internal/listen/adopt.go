package listen

import (
	"cmp"
	"errors"
	"os"
	"reflect"
	"slices"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// AdoptSpec makes the open socket what want says, while no process of a service has it, and reports
// whether it is: its clients go on waiting in the queue. It is false where only another socket can be
// that, which has another address, seal, kind or interface, or where a step fails. Then some of the
// options may be want's already; the socket is closed, or adopts what it was.
func (s *Socket) AdoptSpec(want spec.Socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.checkOpen() != nil || s.spec.Address != want.Address || s.spec.Seal != want.Seal || s.spec.Mapped != want.Mapped {
		return false
	}
	if !reflect.DeepEqual(onSocket(s.spec.Options), onSocket(want.Options)) && s.setUpAnew(want) != nil {
		return false
	}
	s.spec = want
	return true
}

// onSocket leaves out what is not on the socket: it is looked at when it is lent, or closed.
func onSocket(o spec.Options) spec.Options {
	o.NonBlocking, o.KeepOnStop, o.DirectoryMode = false, false, 0
	if len(o.Symlinks) == 0 {
		o.Symlinks = nil
	}
	return o
}

// setUpAnew sets the open socket up as want says. A socket that shares its port was bound for
// that.
func (s *Socket) setUpAnew(want spec.Socket) error {
	if s.spec.Options.ReusePort != want.Options.ReusePort {
		return errNeedsAnother
	}
	from := &pool{means: s.means}
	defer from.close()
	return from.openEach([]spec.Socket{want}, func(want spec.Socket) error {
		steps := []func(spec.Socket) error{s.resetNode, s.resetLinks}
		if want.Address.Network == spec.FIFO {
			steps = append(steps, s.resetPipe)
		} else {
			steps = append(steps, func(want spec.Socket) error { return s.resetOptions(want, from) }, s.resetBacklog)
		}
		for _, step := range steps {
			if err := step(want); err != nil {
				return err
			}
		}
		return nil
	})
}

// resetOptions has the socket have the options that a new one would have. A relay socket is made
// anew, by the next Lend.
func (s *Socket) resetOptions(want spec.Socket, from *pool) error {
	fresh, _, err := newSocket(want, from)
	if err != nil {
		return err
	}
	defer s.closeFile(fresh)
	if s.relay != nil {
		if _, err := s.retireRelay(""); err != nil {
			return err
		}
	}
	if asked := stateOf(fresh, sockopt.Password{}).options; !s.state.options.Adopt(&asked) {
		return errNeedsAnother
	}
	return control(s.file, func(fd int) error {
		if _, stuck := s.state.options.Restore(fd); stuck != "" {
			return errNeedsAnother
		}
		return nil
	})
}

// resetBacklog leaves a listener that its service has shut down: Mend has it listen again.
func (s *Socket) resetBacklog(want spec.Socket) error {
	listening := false
	_ = control(s.file, func(fd int) error {
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		listening = err == nil && n != 0
		return nil
	})
	if !listening {
		return nil
	}
	return startListening(s.file, want)
}

// resetNode gives the node another owner and mode. Its id tells that it is ours, whoever may write
// in its folder.
func (s *Socket) resetNode(want spec.Socket) (err error) {
	before, after := &s.spec.Options, &want.Options
	if s.node == nil || before.SocketUser == after.SocketUser && before.SocketGroup == after.SocketGroup && nodeMode(before) == nodeMode(after) {
		return nil
	}
	if !s.node.made {
		return errNeedsAnother // a FIFO that was there has to be as the configuration says
	}
	err = errNeedsAnother
	s.node.withPlace(func(at place) {
		var who owner
		if who, err = lookupOwner(after); err == nil {
			err = s.node.giveTo(at, who.afterAnother(before, at), uint32(nodeMode(before)), uint32(nodeMode(after)))
		}
	})
	if err != nil || s.fifo == nil {
		return err
	}
	return control(s.fifo, func(fd int) (err error) {
		s.state.access, err = readFIFOAccess(fd)
		return err
	})
}

// giveTo changes the owner and the mode by a descriptor of the inode, at either of its names.
func (n *node) giveTo(at place, who owner, before, after uint32) error {
	file, err := at.Open(unix.O_PATH, 0)
	if err != nil || !isInode(file, n.id) {
		if err == nil {
			_ = unix.Close(file)
		}
		return errNeedsAnother // deleted or replaced just now
	}
	defer unix.Close(file)
	chmod := func(mode uint32) error { return os.NewSyscallError("chmod", unix.Chmod(fd.LinkOf(file), mode)) }
	// Neither the old owner nor the new one may ever do more than both modes say.
	if err := chmod(before & after); err != nil {
		return err
	}
	if who.isGiven() {
		if err := unix.Fchownat(file, "", who.uid, who.gid, unix.AT_EMPTY_PATH); err != nil {
			return os.NewSyscallError("fchownat", err)
		}
	}
	return chmod(after)
}

func isInode(file int, id inode) bool {
	var st unix.Stat_t
	return unix.Fstat(file, &st) == nil && inode{st.Dev, st.Ino} == id
}

// afterAnother returns the owner that a node gets which had one by before: where none is given any
// more, that of a new node in its folder.
func (w owner) afterAnother(before *spec.Options, at place) owner {
	if w.uid < 0 && before.SocketUser != "" {
		w.uid = os.Geteuid()
	}
	if w.gid < 0 && before.SocketGroup != "" {
		w.gid = os.Getegid()
		var st unix.Stat_t
		if unix.Fstat(at.FD(), &st) == nil && st.Mode&unix.S_ISGID != 0 {
			w.gid = int(st.Gid)
		}
	}
	return w
}

// resetLinks makes the symlinks of want, and removes those that are not among them.
func (s *Socket) resetLinks(want spec.Socket) error {
	made, err := makeLinks(want)
	if err != nil {
		return err
	}
	gone := slices.DeleteFunc(slices.Clone(s.links), func(link string) bool { return slices.Contains(made, link) })
	removeLinks(s.spec, gone)
	s.links = made
	return nil
}

// resetPipe gives the pipe another size.
func (s *Socket) resetPipe(want spec.Socket) error {
	if s.spec.Options.PipeSize == want.Options.PipeSize {
		return nil
	}
	return control(s.fifo, func(fd int) (err error) {
		size := cmp.Or(want.Options.PipeSize, 16*os.Getpagesize())
		if err = setPipeSize(fd, size); errors.Is(err, unix.EBUSY) {
			s.state.pipe = size // more is in it than fits: Mend tries again
			return nil
		}
		if err == nil {
			s.state.pipe, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		}
		return err
	})
}

// errNeedsAnother says that only another socket can be what is asked for.
var errNeedsAnother = errors.New("needs another socket")
