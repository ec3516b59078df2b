package listen

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/relay"
)

// Seal is what keeps a service from turning a socket it was lent outward.
type Seal uint8

// The seals of a socket that this package knows of; what a service may call is
// not its business.
const (
	Unsealed    Seal = iota // a plain socket
	ReplyOnly               // made by Means.MakeAll: it can only answer
	Relayed                 // a datagram socket whose service gets Means.StandIn in its place
	ReceiveOnly             // a unix datagram socket that nobody can send from any more
)

func (s Seal) String() string {
	switch s {
	case Unsealed:
		return "unsealed"
	case ReplyOnly:
		return "reply only"
	case Relayed:
		return "relayed"
	case ReceiveOnly:
		return "receive only"
	}
	return fmt.Sprintf("seal %d", uint8(s))
}

// Kind is what socket(2) asks for, without flags.
type Kind struct{ Family, Type, Protocol int }

// Means are ways to make sockets that are not this package's business. The zero
// value has none: plain socket(2). A [Socket] keeps them, to bind anew. They are
// called with it locked, and call none of its methods.
type Means struct {
	// MakeAll returns unbound sockets, close-on-exec and blocking, one for each
	// of kinds in their order, or none and an error. For specs with the seal
	// ReplyOnly; all that are opened together are asked for together.
	MakeAll func(kinds []Kind) ([]*os.File, error)

	// Admit is called each time before such a socket is lent to a service.
	// Lends f for the call. May be nil.
	Admit func(f *os.File) error

	// Release is called before such a socket is closed, whether it was admitted or
	// not. Lends f for the call. May be nil.
	Release func(f *os.File)

	// StandIn makes the socket that a service gets in place of host, for specs
	// with the seal Relayed. Lends host until Close of what it returns, which leaves in
	// undelivered what it has taken off the host's queue and no service has read.
	StandIn func(host *os.File, spec Spec, undelivered *relay.Undelivered) (StandIn, error)

	// Warn is told, by Open, OpenAll and HealNode, what somebody else makes slow. May be nil.
	Warn func(text string)
}

// StandIn is a bound datagram socket elsewhere, to which what comes to the
// host's is relayed.
type StandIn interface {
	File() *os.File  // lends it until Close
	Run()            // begins to relay, once: nothing is taken off the host's queue before
	Broken() bool    // nothing new is relayed any more
	Carried() uint64 // changes with every datagram that is relayed, either way
	Ask()            // has it look at the host's queue once more
	Close() error
}

// checkSeal says which seals cannot be: nothing is ever sealed less than asked.
func checkSeal(spec Spec, means Means) error {
	datagrams := spec.Address.UDP() || spec.Address.Network == UnixGram
	var err error
	switch {
	case spec.Seal == Unsealed:
	case spec.Seal == ReplyOnly && spec.Address.Network == FIFO:
		err = errors.New("a FIFO is no socket")
	case spec.Seal == ReplyOnly && means.MakeAll == nil, spec.Seal == Relayed && means.StandIn == nil:
		err = errors.New("there are no means for it here")
	case spec.Seal == Relayed && !datagrams:
		err = errors.New("only datagram sockets can have a stand-in")
	case spec.Seal == ReceiveOnly && spec.Address.Network != UnixGram:
		err = errors.New("only unix datagram sockets can do nothing but receive")
	case spec.Seal > ReceiveOnly:
		err = errors.New("unknown")
	}
	return fail(spec.Address, "seal: "+spec.Seal.String(), err, "")
}

// sendNothing shuts a unix datagram socket down for sending, whoever holds it: the
// kernel never takes that back (sk_shutdown, net/unix/af_unix.c), and asks for it at every
// send(2), to a peer as to a name.
func sendNothing(file *os.File) error {
	return control(file, func(fd int) error { return syscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
}

// stock makes unbound sockets: what needs means is made ahead, all at once.
type stock struct {
	means Means
	made  map[Kind][]*os.File
}

// fill makes what opening specs will need and is not there yet. Not on a thread
// of [exactModes]: the means may start something from theirs.
func (st *stock) fill(specs []Spec) error {
	var missing []Kind
	have := make(map[Kind]int)
	for i := range specs {
		spec := &specs[i]
		if err := checkSeal(*spec, st.means); err != nil {
			return err
		}
		if spec.Seal != ReplyOnly {
			continue
		}
		kind := kindOf(spec.Address, &spec.Options, haveIPv6)
		if have[kind]++; have[kind] > len(st.made[kind]) {
			missing = append(missing, kind)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	files, err := st.means.MakeAll(missing)
	if err == nil && len(files) != len(missing) {
		for _, f := range files {
			_ = f.Close()
		}
		err = fmt.Errorf("asked for %d sockets, got %d", len(missing), len(files))
	}
	if err != nil {
		return fail(firstSealed(specs), "", err, "")
	}
	if st.made == nil {
		st.made = make(map[Kind][]*os.File)
	}
	for i, kind := range missing {
		st.made[kind] = append(st.made[kind], files[i])
	}
	return nil
}

// take returns the unbound socket for spec, for which fill was called.
func (st *stock) take(spec Spec, kind Kind) (*os.File, error) {
	if spec.Seal != ReplyOnly {
		fd, err := unix.Socket(kind.Family, kind.Type|unix.SOCK_CLOEXEC, kind.Protocol)
		if err != nil {
			return nil, syscallError("socket", err)
		}
		return os.NewFile(uintptr(fd), spec.Address.String()), nil
	}
	files := st.made[kind]
	if len(files) == 0 {
		return nil, errors.New("no socket was made for it")
	}
	st.made[kind] = files[1:]
	return files[0], nil
}

// close closes what nobody took.
func (st *stock) close() {
	for _, files := range st.made {
		for _, f := range files {
			_ = f.Close()
		}
	}
	st.made = nil
}

// firstSealed names the address that an error of MakeAll is told with.
func firstSealed(specs []Spec) Address {
	for i := range specs {
		if specs[i].Seal == ReplyOnly {
			return specs[i].Address
		}
	}
	return specs[0].Address
}

// haveIPv6 reports whether this kernel has IPv6; booted with ipv6.disable=1 it
// has not.
var haveIPv6 = sync.OnceValue(func() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err != unix.EAFNOSUPPORT
})
