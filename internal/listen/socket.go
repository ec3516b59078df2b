package listen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// Socket is a bound and listening socket, or an open FIFO. It owns the
// descriptor, its node, the node's reserve and its symlinks, from bind to unlink.
// Its methods may be called from several goroutines.
type Socket struct {
	mu sync.Mutex

	spec        spec.Socket
	means       Means
	boundSocket             // file is nil when closed, or when binding anew went wrong
	relay       RelaySocket // what services get in place of file; nil: file itself, or none was lent yet
	relayState  socketState // of relay
	closed      bool
	links       []string // symlinks we made or took over
	generation  int
	interest    interest // what a watcher watches of it
	nodeError   string   // of the node, as it was logged last; "": the node is in its place

	undelivered udprelay.Undelivered
	pending     PendingClients
}

// OpenAll opens the sockets in order, all of them or none: the first error
// closes those already open. An address in use is waited for, for a second in
// all and until ctx is done: an activator may be started anew right after it was killed.
func OpenAll(ctx context.Context, specs []spec.Socket, means Means) ([]*Socket, error) {
	sockets := make([]*Socket, 0, len(specs))
	from := &pool{means: means}
	defer from.close()
	var err error
	retryFor(ctx, reopenTimeout, func() bool {
		missing := specs[len(sockets):]
		err = from.openEach(missing, func(want spec.Socket) error {
			s := &Socket{spec: want, means: means}
			err := s.openWithLinks(from)
			if err == nil {
				sockets = append(sockets, s)
			}
			return err
		})
		return err == nil || !isHeld(err)
	})
	if err != nil {
		for _, s := range sockets {
			_ = s.Close()
		}
		return nil, err
	}
	return sockets, nil
}

func (s *Socket) openWithLinks(from *pool) error {
	made, err := openSpec(s.spec, from)
	if err != nil {
		return err
	}
	s.boundSocket = made
	s.links, err = makeLinks(s.spec)
	if err != nil {
		s.removeNode()
		for _, file := range []*os.File{s.file, s.fifo, s.placeholder} {
			_ = file.Close() // EINVAL of what is not there
		}
		return err
	}
	return nil
}

// Spec returns what the socket was opened as, or what [Socket.AdoptSpec] made of it.
func (s *Socket) Spec() spec.Socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spec
}

// String returns the address: "tcp://127.0.0.1:3000".
func (s *Socket) String() string { return s.Spec().Address.String() }

// Undelivered shares what a relay of the socket's has taken off its queue and no service
// has read: it waits here, and not at the socket, until the next relay takes it.
func (s *Socket) Undelivered() *udprelay.Undelivered { return &s.undelivered }

// Pending shares the clients that were accepted and are the next run's: they wait here, and not at
// the socket.
func (s *Socket) Pending() *PendingClients { return &s.pending }

// Generation counts the descriptors the socket has had, from 0. It grows when
// [Socket.Mend] or [Socket.MendNode] had to bind anew: an instance that was lent
// an earlier one is not reached by new clients. That Lend puts a relay socket in
// front does not count.
func (s *Socket) Generation() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.generation
}

// Lend lends the file to hand over, valid until the next Mend, MendNode or
// Close: of a Relayed socket its relay socket, which the first Lend makes. Its status
// flags are set to what the spec says (the service that had it before may have changed
// them): they are shared with every process that holds it. It is [Socket.LendAhead]
// and [Socket.Admit].
func (s *Socket) Lend() (*os.File, error) {
	if err := s.Admit(); err != nil {
		return nil, err
	}
	return s.LendAhead()
}

// Admit comes before a program may use what LendAhead has lent: it gives a
// ReplyOnly socket what it takes to answer, see [Restriction].
func (s *Socket) Admit() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return err
	}
	return wrapError(s.spec.Address, "", s.restriction().Admit(s.file), "")
}

// AdmitsNothing reports whether Admit has nothing to do.
func (s *Socket) AdmitsNothing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.restriction().Admits()
}

// restriction is what keeps the socket. [checkSeal] has seen to it that it is there.
func (s *Socket) restriction() Restriction {
	r, _ := s.means.restriction(s.spec.Seal)
	return r
}

// LendAhead lends the file to a process that waits for its first client. What the
// kernel would need memory for is left for Admit.
func (s *Socket) LendAhead() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return nil, err
	}
	if s.relay == nil {
		if err := s.openRelaySocket(); err != nil {
			return nil, wrapError(s.spec.Address, "", err, "")
		}
	}
	if err := s.setFlags(s.spec.Options.NonBlocking); err != nil {
		return nil, err
	}
	return s.frontFile(), nil
}

// frontFile is what services have: what is watched, mended, looked at and refused.
func (s *Socket) frontFile() *os.File {
	if s.relay != nil {
		return s.relay.File()
	}
	return s.file
}

// openRelaySocket makes the relay socket, if there is to be one. What waits at the host's socket is relayed to it, once it
// is in front.
func (s *Socket) openRelaySocket() error {
	relay, err := s.restriction().OpenRelaySocket(s.file, s.spec, &s.undelivered)
	if err != nil || relay == nil {
		return err
	}
	err = setOptions(relay.File(), &s.spec, sockopt.SetRelayed)
	if err == nil {
		err = s.interest.moveTo(relay.File())
	}
	if err != nil {
		_ = relay.Close()
		return err
	}
	s.relay, s.relayState = relay, stateOf(relay.File(), sockopt.Password{})
	relay.Run()
	return nil
}

// dropRelaySocket ends the relaying; the host's socket, with its queue, is in front
// again, and what was in the relay socket's is undelivered. The watcher must have left the
// relay socket before.
func (s *Socket) dropRelaySocket() error {
	if s.relay == nil {
		return nil
	}
	err := s.relay.Close()
	s.relay, s.relayState = nil, socketState{}
	return err
}

// checkOpen is nil when there is a descriptor.
func (s *Socket) checkOpen() error {
	if s.closed || s.file == nil {
		return wrapError(s.spec.Address, "", errClosed, "")
	}
	return nil
}

// setFlags clears all other status flags: O_ASYNC of the last instance would
// send signals.
func (s *Socket) setFlags(nonBlocking bool) error {
	flags := 0
	if nonBlocking {
		flags = unix.O_NONBLOCK
	}
	return s.controlFront("fcntl", func(fd int) error {
		_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
		return err
	})
}

// controlFront calls f with the descriptor and names the system call in its error.
func (s *Socket) controlFront(call string, f func(fd int) error) error {
	err := control(s.frontFile(), func(fd int) error { return os.NewSyscallError(call, f(fd)) })
	return wrapError(s.spec.Address, "", err, "")
}

// Close closes the socket and removes its node and symlinks where they are
// still ours. Clients that wait in the queue are reset. Twice is fine.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.pending.close()
	s.interest.forget()
	failed := s.dropRelaySocket() // it has our descriptor until then
	// Before the descriptor: it keeps the inode ours. See inode.
	if s.node != nil && s.spec.Options.KeepOnStop {
		s.node.removeReserve()
	} else {
		s.removeNode()
	}
	if s.file != nil {
		failed = errors.Join(failed, s.endFile(s.file))
		s.file = nil
	}
	if s.fifo != nil {
		failed = errors.Join(failed, s.fifo.Close())
		s.fifo = nil
	}
	if s.placeholder != nil {
		failed = errors.Join(failed, s.placeholder.Close())
		s.placeholder = nil
	}
	return failed
}

func (s *Socket) removeNode() {
	if s.node == nil {
		return
	}
	removeLinks(s.spec, s.links)
	s.links = nil
	s.node.removeNames()
}

// replaceFile swaps in what was bound anew and closes the old descriptor, if there
// is one. A process that holds a copy of the old one keeps it.
func (s *Socket) replaceFile(made boundSocket) error {
	old, fifo := s.file, s.fifo
	if err := s.interest.moveTo(made.file); err != nil {
		return err
	}
	_ = s.dropRelaySocket()
	s.boundSocket = made
	s.generation++
	if old != nil {
		_ = s.closeFile(old)
	}
	if fifo != nil {
		_ = fifo.Close()
	}
	return nil
}

// endFile closes a file that no process of a service has, and ends what copies of it hear.
func (s *Socket) endFile(file *os.File) error {
	silenceCopies(file)
	return s.closeFile(file)
}

// closeFile closes a file of ours. A process that holds a copy goes on with it.
func (s *Socket) closeFile(file *os.File) error {
	s.restriction().ReleaseSocket(file)
	return file.Close()
}

var _ fmt.Stringer = (*Socket)(nil)
