package usernotif

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// Policy says what the service may do with sockets of its own.
type Policy struct {
	Netns   uint64   // SO_NETNS_COOKIE of the service's own network namespace
	Unix    bool     // its unix sockets may connect to what its own root has
	IP      bool     // its own TCP and UDP sockets may connect, bind and listen; else they may bind UDP
	Reports []Report // where a unix datagram socket may connect to, whatever Unix says
	Owners  spec.Owners

	// Targets are what the service binds and gets sockets of the host's for. With any, its
	// own sockets may be bound to everything else and listen there.
	Targets []Target

	// Engine is not 0 of a container engine and what it starts: the number of the mount namespace in
	// which it works. The rest of the policy is for callers in other ones.
	Engine uint64

	// Refusal is not nil of a program that is observed: its filter hands over what it would refuse, and bind.
	// It says what the filter would have said.
	Refusal func(number, machine uint32, args [6]uint64) spec.Refusal
	Tell    func(f spec.Finding) // what it was refused, what it binds, and what paths it does not get at
	Handed  []spec.Socket        // what the program has from its start, and need not bind
	Own     bool                 // no client comes to the network that it is in

	Free     bool // nothing is sealed: what is no target is the kernel's to judge
	Alone    bool // nothing behind us refuses to connect or to bind TCP: no call is passed on
	Unsealed bool // no filter refuses to set an option of a socket

	Warn func(text string) // Run calls it with what may surprise the service; may be nil
}

// Report is a socket of ours that the service reports to.
type Report struct {
	Path string   // as the service says it
	Node *os.File // what that means, whatever stands there by now: opened with O_PATH, lent until Run has returned
}

// Supervisor answers the calls of one service.
type Supervisor struct {
	listener *os.File // in the runtime's poller
	policy   Policy
	list     []Target      // the policy's
	slots    chan struct{} // of calls that may block
	calls    sync.WaitGroup
	pace     pace
	options  pace          // of the calls that set one
	serving  chan struct{} // closed when missing is 0

	mu         sync.Mutex
	targets    []given // their number and cookies never change
	missing    int     // targets that are not served yet
	noted      map[string]bool
	told       map[int32][]string    // of what was refused, by the call; Run's
	found      map[spec.Finding]bool // of paths, ids and addresses; Run's
	warnedUses bool                  // of what could not follow a bind; Run's
	scans      int                   // tables of descriptors that were looked through; Run's
	replaced   map[uint64]int        // inodes of sockets in whose place the service got a target, and which; Run's
	pending    map[int]bool          // sockets in a call that may block
	ended      bool
	closed     bool
}

// mostBlocked bounds the calls of one service that wait for the network at a
// time: each has a thread of ours. The next ones are answered when one is done.
const mostBlocked = 16

// New takes listener, the descriptor that seccomp(2) returned with
// SECCOMP_FILTER_FLAG_NEW_LISTENER, as a file of the runtime's poller: it was O_NONBLOCK
// when that was made.
func New(listener *os.File, policy Policy) (*Supervisor, error) {
	s := &Supervisor{listener: listener, policy: policy, list: policy.Targets,
		pace: pace{least: paceEvery, most: paceMost}, options: pace{least: optionEvery, most: optionMost}, slots: make(chan struct{}, mostBlocked), pending: make(map[int]bool),
		serving: make(chan struct{}), missing: len(policy.Targets), noted: make(map[string]bool), told: make(map[int32][]string), found: make(map[spec.Finding]bool), replaced: make(map[uint64]int)}
	for _, t := range policy.Targets {
		g := given{Target: t}
		err := fd.Control(t.File, func(fd int) (err error) {
			if g.cookie, err = cookieOf(fd); err == nil {
				g.domain, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			}
			return err
		})
		if err != nil {
			_ = listener.Close()
			return nil, fmt.Errorf("target %s: %w", t.Address, os.NewSyscallError("getsockopt", err))
		}
		s.targets = append(s.targets, g)
	}
	return s, nil
}

// Run answers until the last process under the filter is gone, or ctx is done:
// then what is asked is answered with ENOSYS by the kernel, once the supervisor
// is closed.
func (s *Supervisor) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		_ = s.Close()
		s.interruptCalls()
	})
	defer stop()
	defer s.calls.Wait()
	defer s.interruptCalls()
	for {
		var n notification
		gone := false
		err := fd.Read(s.listener, func(fd int) error {
			var ready bool
			if ready, gone = pollListener(fd); gone && !ready {
				return nil
			} else if !ready {
				return unix.EAGAIN
			}
			return callIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n))
		})
		switch {
		case gone || s.isClosing():
			return nil
		case errors.Is(err, unix.ENOENT): // the caller has gone since it was seen to wait: a signal, or its end
			continue
		case err != nil:
			return fmt.Errorf("seccomp listener: %w", err)
		}
		if n.ID == 0 { // the caller was killed meanwhile
			continue
		}
		turn := s.paceOf(n)
		if turn != nil && !turn.waitForTurn(ctx) {
			return nil
		}
		start := time.Now()
		s.answerCall(n)
		if turn != nil {
			turn.noteCost(time.Since(start))
		}
	}
}

// paceOf is what slows a call down; nil: nothing.
func (s *Supervisor) paceOf(n notification) *pace {
	switch n.Nr {
	case unix.SYS_CONNECT:
		return nil
	case unix.SYS_BIND, unix.SYS_LISTEN:
		return &s.pace
	case sockopt.SetCall:
		return &s.options
	}
	if _, ok := ownerCalls[n.Nr]; ok {
		return &s.options
	}
	if s.policy.Refusal != nil {
		return &s.options // of a program that is observed: most are refused by their numbers
	}
	return &s.pace
}

// pollListener asks, without waiting, whether a call waits for an answer, and whether no
// process is left that could make one.
func pollListener(listener int) (ready, gone bool) {
	events, _ := fd.Poll(listener, unix.POLLIN, 0)
	return events&unix.POLLIN != 0, events&(unix.POLLHUP|unix.POLLERR) != 0
}

// Close ends Run. It may be called twice.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	err := s.listener.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func (s *Supervisor) isClosing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// interruptCalls ends the calls that wait for the network: shutdown(2) of a socket
// that is connecting makes its connect return.
func (s *Supervisor) interruptCalls() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for fd := range s.pending {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
}

// isValid reports whether the call is still waiting. Only then what we took from its thread
// was that thread's, and not that of a later one with the same number.
func (s *Supervisor) isValid(id uint64) bool {
	return fd.Control(s.listener, func(fd int) error { return callIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&id)) }) == nil
}

func (s *Supervisor) addFD(a *addition) error {
	return fd.Control(s.listener, func(fd int) error { return callIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_ADDFD, unsafe.Pointer(a)) })
}

func (s *Supervisor) sendResponse(id uint64, v verdict) {
	r := response{ID: id}
	if v.pass {
		r.Flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	} else {
		r.Error = -int32(v.errno)
	}
	// ENOENT: the caller is gone.
	_ = fd.Control(s.listener, func(fd int) error { return callIoctl(fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) })
}
