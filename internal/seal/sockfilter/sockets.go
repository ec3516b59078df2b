package sockfilter

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/cgroup"
	"activator/internal/kernel/fd"
	"activator/internal/netns"
	"activator/internal/spec"
)

// MakeSockets returns one UDP socket for each kind, in order, blocking and with
// FD_CLOEXEC, or none. Nothing is done to them yet; they may be bound, and given
// options, anywhere.
//
// It takes a child for all of them, and the directory of a cgroup below our own
// that is gone at the end.
func (p *Programs) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	for _, k := range kinds {
		if err := checkKind(k); err != nil {
			return nil, err
		}
	}
	return p.makeSockets(kinds)
}

// maker makes sockets in a group that has its programs.
type maker struct {
	make     func(cgroup int, kinds []spec.Kind) ([]int, error)
	groups   *cgroup.Hierarchy
	hooks    []hook
	programs []*os.File // as hooks
}

func newMaker(hooks []hook) maker { return maker{make: netns.MakeSocketsInGroup, hooks: hooks} }

// loadPrograms loads the programs of the hooks.
func (m *maker) loadPrograms(t tables) error {
	for _, h := range m.hooks {
		program, err := loadProgram(h, t)
		if err != nil {
			return newStepError(stepPrograms, fmt.Errorf("%s: %w", h.name, err))
		}
		m.programs = append(m.programs, program)
	}
	return nil
}

// close gives back what only we use. The sockets keep the programs.
func (m *maker) close() {
	if m.groups != nil {
		m.groups.Close()
	}
	closeFiles(m.programs)
}

func (m *maker) makeSockets(kinds []spec.Kind) ([]*os.File, error) {
	if len(kinds) == 0 {
		return nil, nil
	}
	r, err := m.makeGroup()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := m.attach(r); err != nil {
		return nil, err
	}
	sockets, err := m.makeIn(r, kinds)
	if err == nil {
		err = tryAll(sockets, kinds)
	}
	if err != nil {
		closeFiles(sockets)
		return nil, err
	}
	return sockets, nil
}

// makeGroup makes a group for sockets.
func (m *maker) makeGroup() (*cgroup.Group, error) {
	r, err := m.groups.Make()
	var refused *cgroup.MakeError
	if errors.As(err, &refused) {
		return nil, newStepError(stepNewGroup, err)
	}
	return r, newStepError(stepGroup, err)
}

// makeIn makes the sockets in a group.
func (m *maker) makeIn(r *cgroup.Group, kinds []spec.Kind) (sockets []*os.File, err error) {
	var fds []int
	_, err = withFD(r.Dir(), func(cgroup int) (_ int, err error) {
		fds, err = m.make(cgroup, kinds)
		return 0, err
	})
	for _, fd := range fds {
		sockets = append(sockets, os.NewFile(uintptr(fd), "socket"))
	}
	return sockets, newStepError(stepSockets, err)
}

// checkKind refuses what the programs have no answer for: to them, a TCP handshake
// is a packet to no peer they know.
func checkKind(k spec.Kind) error {
	if k.Family != unix.AF_INET && k.Family != unix.AF_INET6 || k.Type != unix.SOCK_DGRAM || k.Protocol != 0 && k.Protocol != unix.IPPROTO_UDP {
		return fmt.Errorf("socket of family %d, type %d, protocol %d: only UDP can be sealed", k.Family, k.Type, k.Protocol)
	}
	return nil
}

// attach makes our programs those of the group.
func (m *maker) attach(r *cgroup.Group) error {
	for i, h := range m.hooks {
		_, err := withFD(r.Dir(), func(cgroup int) (int, error) {
			return withFD(m.programs[i], func(program int) (int, error) { return 0, attach(cgroup, program, h) })
		})
		if err != nil {
			return newStepError(stepAttach, fmt.Errorf("%s: %w", h.name, err))
		}
	}
	return nil
}

// tryAll tries the seal of sockets that have no table yet: a connect must be refused before
// anything is sent. It would not be where a kernel has lost the cgroup of
// its sockets.
func tryAll(sockets []*os.File, kinds []spec.Kind) error {
	for i, s := range sockets {
		var to unix.Sockaddr = &unix.SockaddrInet4{Port: 9, Addr: [4]byte{127, 0, 0, 1}}
		if kinds[i].Family == unix.AF_INET6 {
			to = &unix.SockaddrInet6{Port: 9, Addr: [16]byte{15: 1}}
		}
		_, err := withFD(s, func(fd int) (int, error) {
			return 0, unix.Connect(fd, to) // of UDP: nothing waits
		})
		if !errors.Is(err, unix.EPERM) {
			return &Error{Step: stepTrial, Err: fmt.Errorf("connect of a sealed socket: %v, want %v", err, unix.EPERM)}
		}
	}
	return nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// withFD is [fd.Control] for what returns something.
func withFD(file *os.File, f func(fd int) (int, error)) (n int, err error) {
	n = -1
	err = fd.Control(file, func(fd int) (err error) {
		n, err = f(fd)
		return err
	})
	return n, err
}
