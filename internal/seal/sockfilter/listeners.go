package sockfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/cgroup"
	"activator/internal/kernel/sockopt"
	"activator/internal/spec"
)

// Listeners are what seals TCP listeners, loaded once. Such a listener, and a connection that it
// accepted, cannot connect, in whatever state and by whatever call. And what a listener hands down to
// the clients that wait, of the options that can harm them there, cannot be set while it
// listens: setting one seems to work. On an accepted connection it does.
//
// That is not the listener's own business alone: a client in the queue has the options the listener had
// when it came, and is served with them by the next instance. Nothing can set them back there.
type Listeners struct {
	maker
	password sockopt.Password
}

// OpenListeners loads the programs, tries whether they seal a listener, and removes what an activator
// that was killed has left behind. The error is an *[Error].
func OpenListeners() (*Listeners, error) {
	l, err := loadListeners()
	if err != nil {
		return nil, err
	}
	if err = newStepError(stepGroup, l.groups.Sweep()); err == nil {
		err = l.tryListener()
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func loadListeners() (*Listeners, error) {
	if err := checkRights(); err != nil {
		return nil, err
	}
	l := &Listeners{}
	// So few bytes come whole, getrandom(2). Package crypto/rand would test its algorithms at each start of each
	// of our programs.
	if _, err := unix.Getrandom(l.password[:], 0); err != nil {
		return nil, os.NewSyscallError("getrandom", err)
	}
	l.maker = newMaker(listenerHooks(l.password))
	var err error
	if l.groups, err = cgroup.Mount(groupPrefix); err != nil {
		return nil, newStepError(stepMount, err)
	}
	if err := l.loadPrograms(tables{}); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// MakeSockets returns one TCP socket for each kind, in order, blocking and with FD_CLOEXEC, or none. As
// [Programs.MakeSockets], it takes a child for all of them.
func (l *Listeners) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	for _, k := range kinds {
		if k.Family != unix.AF_INET && k.Family != unix.AF_INET6 || k.Type != unix.SOCK_STREAM || k.Protocol != unix.IPPROTO_TCP {
			return nil, fmt.Errorf("socket of family %d, type %d, protocol %d: it is no TCP", k.Family, k.Type, k.Protocol)
		}
	}
	return l.makeSockets(kinds)
}

// Password is what has to follow the value of an option that is set on a listener all the same.
func (l *Listeners) Password() sockopt.Password { return l.password }

// Close gives back what only we use. Listeners that are open stay sealed.
func (l *Listeners) Close() { l.maker.close() }

// ListenerAbility is [Ability] of TCP listeners.
func ListenerAbility() (ok bool, detail, cure string) {
	l, err := loadListeners()
	if err == nil {
		defer l.Close()
		err = l.tryListener()
	}
	return describeTrial(err)
}

// tryListener seals a socket that is closed at once. What could listen withholds as what does.
func (l *Listeners) tryListener() error {
	sockets, err := l.MakeSockets([]spec.Kind{{Family: unix.AF_INET, Type: unix.SOCK_STREAM, Protocol: unix.IPPROTO_TCP}})
	if err != nil {
		return err
	}
	defer closeFiles(sockets)
	_, err = withFD(sockets[0], func(fd int) (int, error) {
		withheld, err := sockopt.TryWithheld(fd)
		if err == nil && !withheld {
			err = errors.New("an option of a sealed listener was set")
		}
		return 0, err
	})
	return newStepError(stepTrial, err)
}

// listenerHooks returns the hooks of a listener.
func listenerHooks(password sockopt.Password) []hook {
	const address = unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR
	refuse := func(tables) *program {
		p := newProgram()
		p.result(0)
		return p
	}
	return []hook{
		{"connect4", address, unix.BPF_CGROUP_INET4_CONNECT, refuse},
		{"connect6", address, unix.BPF_CGROUP_INET6_CONNECT, refuse},
		{"setsockopt", unix.BPF_PROG_TYPE_CGROUP_SOCKOPT, unix.BPF_CGROUP_SETSOCKOPT, func(tables) *program { return withholdOptions(password) }},
	}
}

// Offsets in struct bpf_sockopt and, of the state, in struct bpf_sock, linux/bpf.h.
const (
	optionSocket = 0
	optionValue  = 8
	optionEnd    = 16
	optionLevel  = 24
	optionName   = 28
	optionLength = 32
	socketState  = 72
)

// States of net/tcp_states.h. A listener that its service has shut down is closed, and may listen again.
const (
	tcpClose  = 7
	tcpListen = 10
)

// withholdOptions has nothing happen where an option of the table's that is withheld is set on what
// listens, or could, and 0 be answered: a length of -1. A length of 0 has the kernel read the call's own
// value, as if we were not there. With the password behind it the value is set.
func withholdOptions(password sockopt.Password) *program {
	p := newProgram()
	p.move(r6, r1)
	p.load(word, r1, r6, optionLevel)
	p.load(word, r2, r6, optionName)
	for level, names := range sockopt.WithheldNames() {
		other := fmt.Sprint("not of level ", level)
		p.ifNot(r1, int32(level), other)
		for _, name := range names {
			p.ifEqual(r2, int32(name), "withheld")
		}
		p.label(other)
	}
	p.label("pass")
	p.moveValue(r1, 0)
	p.jump("answer")
	p.label("withheld")
	p.load(doubleWord, r1, r6, optionSocket)
	p.load(word, r1, r1, socketState)
	p.ifEqual(r1, tcpListen, "ask")
	p.ifNot(r1, tcpClose, "pass")
	p.label("ask")
	p.load(doubleWord, r2, r6, optionValue)
	p.load(doubleWord, r3, r6, optionEnd)
	p.move(r4, r2)
	p.add(opAddValue, r4, 0, 0, int32(sockopt.WithPassword))
	p.ifBeyond(r4, r3, "refuse")
	at := int16(sockopt.WithPassword - len(password))
	p.load(doubleWord, r1, r2, at)
	p.loadNumber(r2, binary.NativeEndian.Uint64(password[:]))
	p.ifDiffer(r1, r2, "refuse")
	p.moveValue(r1, int32(at))
	p.jump("answer")
	p.label("refuse")
	p.moveValue(r1, -1)
	p.label("answer")
	p.store(word, r6, optionLength, r1)
	p.result(1)
	return p
}
