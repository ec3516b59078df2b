package listen

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/relay"
	"activator/internal/spec"
)

// Means are ways to make sockets that are not this package's business. The zero
// value has none: plain socket(2). A [Socket] keeps them, to bind anew. They are
// called with it locked, and call none of its methods.
type Means struct {
	// MakeAll returns unbound sockets, close-on-exec and blocking, one for each
	// of kinds in their order, or none and an error. For specs with the seal
	// ReplyOnly; all that are opened together are asked for together.
	MakeAll func(kinds []spec.Kind) ([]*os.File, error)

	// Admit is called each time before such a socket is lent to a service.
	// Lends f for the call. May be nil.
	Admit func(f *os.File) error

	// Release is called before such a socket is closed, whether it was admitted or
	// not. Lends f for the call. May be nil.
	Release func(f *os.File)

	// StandIn makes the socket that a service gets in place of host, for specs
	// with the seal Relayed. Lends host until Close of what it returns, which leaves in
	// undelivered what it has taken off the host's queue and no service has read.
	StandIn func(host *os.File, want spec.Socket, undelivered *relay.Undelivered) (StandIn, error)

	// Warn is told, by Open, OpenAll and HealNode, what somebody else makes slow. May be nil.
	Warn func(text string)
}

// StandIn is a bound datagram socket elsewhere, to which what comes to the
// host's is relayed.
type StandIn interface {
	File() *os.File  // lends it until Close
	Run()            // begins to relay, once: nothing is taken off the host's queue before
	Carried() uint64 // changes with every datagram that is relayed, either way
	Ask()            // has it look at the host's queue once more
	Close() error
}

// checkSeal says which seals cannot be: nothing is ever sealed less than asked.
func checkSeal(want spec.Socket, means Means) error {
	datagrams := want.Address.UDP() || want.Address.Network == spec.UnixGram
	var err error
	switch {
	case want.Seal == spec.Unsealed:
	case want.Seal == spec.ReplyOnly && want.Address.Network == spec.FIFO:
		err = errors.New("a FIFO is no socket")
	case want.Seal == spec.ReplyOnly && means.MakeAll == nil, want.Seal == spec.Relayed && means.StandIn == nil:
		err = errors.New("there are no means for it here")
	case want.Seal == spec.Relayed && !datagrams:
		err = errors.New("only datagram sockets can have a stand-in")
	case want.Seal == spec.ReceiveOnly && want.Address.Network != spec.UnixGram:
		err = errors.New("only unix datagram sockets can do nothing but receive")
	case want.Seal > spec.ReceiveOnly:
		err = errors.New("unknown")
	}
	return fail(want.Address, "seal: "+want.Seal.String(), err, "")
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
	made  map[spec.Kind][]*os.File
}

// fill makes what opening specs will need and is not there yet. Not on a thread
// of [exactModes]: the means may start something from theirs.
func (st *stock) fill(specs []spec.Socket) error {
	var missing []spec.Kind
	have := make(map[spec.Kind]int)
	for i := range specs {
		want := &specs[i]
		if err := checkSeal(*want, st.means); err != nil {
			return err
		}
		if want.Seal != spec.ReplyOnly {
			continue
		}
		kind := kindOf(want.Address, &want.Options, haveIPv6)
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
		st.made = make(map[spec.Kind][]*os.File)
	}
	for i, kind := range missing {
		st.made[kind] = append(st.made[kind], files[i])
	}
	return nil
}

// take returns the unbound socket for spec, for which fill was called.
func (st *stock) take(want spec.Socket, kind spec.Kind) (*os.File, error) {
	if want.Seal != spec.ReplyOnly {
		fd, err := unix.Socket(kind.Family, kind.Type|unix.SOCK_CLOEXEC, kind.Protocol)
		if err != nil {
			return nil, syscallError("socket", err)
		}
		return os.NewFile(uintptr(fd), want.Address.String()), nil
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
func firstSealed(specs []spec.Socket) spec.Address {
	for i := range specs {
		if specs[i].Seal == spec.ReplyOnly {
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
