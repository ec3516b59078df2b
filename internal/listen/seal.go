package listen

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// Restriction keeps the sockets of one seal from being turned outward by the service that
// they are lent to. Its methods are called with a [Socket] locked, and call none of its.
// [Plain] has them all for what needs only some.
type Restriction interface {
	// MakeSockets returns unbound sockets, close-on-exec and blocking, one for each of kinds in
	// their order, or none and an error. All that are opened together are asked for
	// together.
	MakeSockets(kinds []spec.Kind) ([]*os.File, error)

	// OpenRelaySocket makes the socket that a service gets in place of bound; nil: bound itself.
	// Lends bound until Close of what it returns, which leaves in undelivered what it has
	// taken off bound's queue and no service has read.
	OpenRelaySocket(bound *os.File, want spec.Socket, undelivered *udprelay.Undelivered) (RelaySocket, error)

	// Admit is called each time before a service may use bound. Lends bound for the call.
	Admit(bound *os.File) error

	// Admits reports whether Admit does anything.
	Admits() bool

	// Password is what has to follow an option of those that a socket withholds; zero: it withholds none.
	Password() sockopt.Password

	// ReleaseSocket is called before a socket that Make made is closed, whether it was admitted
	// or not. Lends it for the call.
	ReleaseSocket(made *os.File)
}

// Means are what this package asks others for. The zero value restricts nothing. A
// [Socket] keeps them, to bind anew.
type Means struct {
	Restrictions map[spec.Seal]Restriction // of the seals ReplyOnly, Relayed and AcceptOnly

	// Warn is told, by Open, OpenAll and MendNode, what another process makes slow. May be nil.
	Warn func(text string)
}

// restriction is that of a seal.
func (m Means) restriction(seal spec.Seal) (Restriction, bool) {
	if seal == spec.Unsealed || seal == spec.ReceiveOnly {
		return Plain{}, true
	}
	r, ok := m.Restrictions[seal]
	return r, ok
}

// Plain restricts nothing: plain socket(2).
type Plain struct{}

func (Plain) MakeSockets(kinds []spec.Kind) (made []*os.File, err error) {
	for _, k := range kinds {
		fd, err := unix.Socket(k.Family, k.Type|unix.SOCK_CLOEXEC, k.Protocol)
		if err != nil {
			closeFiles(made)
			return nil, os.NewSyscallError("socket", err)
		}
		made = append(made, os.NewFile(uintptr(fd), "socket"))
	}
	return made, nil
}

func (Plain) OpenRelaySocket(*os.File, spec.Socket, *udprelay.Undelivered) (RelaySocket, error) {
	return nil, nil
}
func (Plain) Admit(*os.File) error              { return nil }
func (Plain) Admits() bool                      { return false }
func (Plain) Password() (none sockopt.Password) { return none }
func (Plain) ReleaseSocket(*os.File)            {}

// RelaySocket is a bound datagram socket elsewhere, to which what comes to the
// host's is relayed.
type RelaySocket interface {
	File() *os.File  // lends it until Close
	Run()            // begins to relay, once: nothing is taken off the host's queue before
	Carried() uint64 // changes with every datagram that is relayed, either way
	AskQueue()       // has it look at the host's queue once more
	Refilled() bool  // reports whether a service that has ended has sent to it itself, and the next one would read that
	Close() error
}

// checkSeal says which seals cannot be: nothing is ever sealed less than asked.
func checkSeal(want spec.Socket, means Means) error {
	datagrams := want.Address.IsUDP() || want.Address.Network == spec.UnixGram
	_, can := means.restriction(want.Seal)
	var err error
	switch {
	case want.Seal > spec.AcceptOnly:
		err = errors.New("unknown")
	case want.Seal == spec.ReplyOnly && want.Address.Network == spec.FIFO:
		err = errors.New("a FIFO is no socket")
	case want.Seal == spec.AcceptOnly && (!want.Address.IsTCP() || want.Options.MPTCP):
		err = errors.New("only TCP sockets can do nothing but accept")
	case !can:
		err = errors.New("there are no means for it here")
	case want.Seal == spec.Relayed && !datagrams:
		err = errors.New("only datagram sockets can have a relay socket")
	case want.Seal == spec.ReceiveOnly && want.Address.Network != spec.UnixGram:
		err = errors.New("only unix datagram sockets can do nothing but receive")
	}
	return wrapError(want.Address, "seal: "+want.Seal.String(), err, "")
}

// sendNothing shuts a unix datagram socket down for sending, in every process: the
// kernel never takes that back (sk_shutdown, net/unix/af_unix.c), and asks for it at every
// send(2), to a peer as to a name.
func sendNothing(file *os.File) error {
	return control(file, func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
}

// pool makes unbound sockets: what a restriction makes is made ahead, all at once.
type pool struct {
	means Means
	made  map[poolKey][]*os.File
}

// poolKey is what a socket is made for.
type poolKey struct {
	seal spec.Seal
	kind spec.Kind
}

// openEach makes what the sockets of specs need, and calls open with each until an error: by
// [withoutUmask] if one of them has a node.
func (st *pool) openEach(specs []spec.Socket, open func(spec.Socket) error) (err error) {
	if err := st.makeMissing(specs); err != nil {
		return err
	}
	each := func() {
		for i := 0; i < len(specs) && err == nil; i++ {
			err = open(specs[i])
		}
	}
	if slices.ContainsFunc(specs, func(s spec.Socket) bool { return s.Address.Node() != "" }) {
		withoutUmask(each)
	} else {
		each()
	}
	return err
}

// makeMissing makes what opening specs will need and is not there yet. Not on a thread
// of [withoutUmask]: a restriction may start something from theirs.
func (st *pool) makeMissing(specs []spec.Socket) error {
	missing := make(map[spec.Seal][]spec.Kind)
	first := make(map[spec.Seal]spec.Address) // an error is told with it
	have := make(map[poolKey]int)
	for i := range specs {
		want := &specs[i]
		if err := checkSeal(*want, st.means); err != nil {
			return err
		}
		if r, _ := st.means.restriction(want.Seal); r == (Plain{}) {
			continue
		}
		key := poolKey{want.Seal, kindOf(want, haveIPv6)}
		if have[key]++; have[key] <= len(st.made[key]) {
			continue
		}
		if missing[want.Seal] == nil {
			first[want.Seal] = want.Address
		}
		missing[want.Seal] = append(missing[want.Seal], key.kind)
	}
	for seal, kinds := range missing {
		if err := st.makeSockets(seal, kinds); err != nil {
			return wrapError(first[seal], "", err, "")
		}
	}
	return nil
}

// makeSockets has a restriction make sockets.
func (st *pool) makeSockets(seal spec.Seal, kinds []spec.Kind) error {
	r, _ := st.means.restriction(seal)
	files, err := r.MakeSockets(kinds)
	if err != nil {
		return err
	}
	if len(files) != len(kinds) {
		closeFiles(files)
		return fmt.Errorf("asked for %d sockets, got %d", len(kinds), len(files))
	}
	if st.made == nil {
		st.made = make(map[poolKey][]*os.File)
	}
	for i, kind := range kinds {
		key := poolKey{seal, kind}
		st.made[key] = append(st.made[key], files[i])
	}
	return nil
}

// takeSocket returns the unbound socket for spec, for which makeMissing was called.
func (st *pool) takeSocket(want spec.Socket, kind spec.Kind) (*os.File, error) {
	if r, _ := st.means.restriction(want.Seal); r == (Plain{}) {
		made, err := r.MakeSockets([]spec.Kind{kind})
		if err != nil {
			return nil, err
		}
		return made[0], nil
	}
	key := poolKey{want.Seal, kind}
	files := st.made[key]
	if len(files) == 0 {
		return nil, errors.New("no socket was made for it")
	}
	st.made[key] = files[1:]
	return files[0], nil
}

// password is that of the sockets of a seal.
func (st *pool) password(want spec.Socket) sockopt.Password {
	r, _ := st.means.restriction(want.Seal)
	return r.Password()
}

// close closes what was not taken.
func (st *pool) close() {
	for _, files := range st.made {
		closeFiles(files)
	}
	st.made = nil
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
