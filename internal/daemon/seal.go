package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"activator/internal/config"
	"activator/internal/listen"
	"activator/internal/relay"
	"activator/internal/replyonly"
	"activator/internal/sandbox"
)

// walls are what keeps the sockets of sealed services from being turned outward.
// Each is made when the first service needs it.
type walls struct {
	start    func(argv []string, attr *syscall.ProcAttr) (pid int, err error)
	log      *slog.Logger
	maker    *relay.Maker
	programs *replyonly.Programs // nil: not asked for yet, or refused
	refusal  error               // why there are no programs

	mu    sync.Mutex
	users map[listen.Address]user
}

func newWalls(start func([]string, *syscall.ProcAttr) (int, error), log *slog.Logger) *walls {
	return &walls{start: start, log: log, maker: relay.NewMaker(start), users: make(map[listen.Address]user)}
}

// answering reports whether UDP sockets can be made that only answer, by trying,
// once.
func (w *walls) answering() bool {
	if w.programs == nil && w.refusal == nil {
		w.programs, w.refusal = replyonly.Open(w.start, 0)
	}
	return w.refusal == nil
}

func (w *walls) close() {
	if w.programs != nil {
		_ = w.programs.Close()
	}
	_ = w.maker.Close()
}

// means are the walls as package listen wants them.
func (w *walls) means() listen.Means {
	return listen.Means{
		MakeAll: func(kinds []listen.Kind) ([]*os.File, error) {
			asked := make([]replyonly.Kind, len(kinds))
			for i, k := range kinds {
				asked[i] = replyonly.Kind(k)
			}
			return w.programs.Sockets(asked)
		},
		Admit: func(f *os.File) error { return w.programs.Admit(f) },
		Release: func(f *os.File) {
			if err := w.programs.Forget(f); err != nil {
				w.log.Warn("table of a UDP socket's clients not given back", "err", err)
			}
		},
		StandIn: func(host *os.File, spec listen.Spec) (listen.StandIn, error) {
			return w.standIn(host, spec)
		},
	}
}

// user is the service that has a socket.
type user struct {
	id      int    // the user and group whom a relay's answers are from; 0: ours
	touched func() // asks it to look at its sockets
}

// use says whose a socket is, before anybody is lent it.
func (w *walls) use(address listen.Address, u user) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.users[address] = u
}

func (w *walls) userOf(address listen.Address) user {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.users[address]
}

// standIn relays what comes to host until it is closed.
func (w *walls) standIn(host *os.File, spec listen.Spec) (listen.StandIn, error) {
	u := w.userOf(spec.Address)
	log := w.log.With("socket", spec.Address.String())
	flows, err := w.maker.StandIn(host, relay.Options{UID: u.id, GID: u.id, Log: log})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &standIn{flows: flows, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		if err := flows.Run(ctx); err != nil {
			log.Error("relay ended: its service is started anew with another one", "err", err)
			s.broken.Store(true)
			u.touched()
		}
	}()
	return s, nil
}

// standIn is a relay at work.
type standIn struct {
	flows  *relay.Datagrams
	cancel context.CancelFunc
	done   chan struct{}
	broken atomic.Bool
}

func (s *standIn) File() *os.File { return s.flows.Inner() }
func (s *standIn) Broken() bool   { return s.broken.Load() }

func (s *standIn) Carried() uint64 { return s.flows.Carried() }

func (s *standIn) Close() error {
	s.cancel()
	<-s.done
	return s.flows.Close()
}

// sealing is how a service is sealed.
type sealing struct {
	sockets []listen.Spec
	lacks   []string // what of the seal cannot be had here, a sentence each
	names   bool     // it has no socket that reaches abstract names of the host
	passed  bool     // clients may pass it descriptors
}

// seal says how each socket of conf is kept from being turned outward.
func seal(conf config.Service, answering func() bool) (s sealing) {
	sealed := conf.Sandbox.Seal != "off" && conf.Handover != "proxy"
	direct := false // unix datagram sockets of the host's that the service has, or may be passed
	for _, socket := range conf.Sockets {
		spec := socket.Spec
		if conf.Handover == "proxy" {
			spec.Options.RefuseRights = spec.Options.RefuseRights && listen.CanRefuseRights() // what comes is dropped anyway
		}
		if sealed {
			spec.Seal = sealOf(spec, answering)
			s.lacks = append(s.lacks, socketLacks(&spec, conf.Sandbox.Connect)...)
		}
		direct = direct || spec.Address.Unix() && spec.Seal == listen.Unsealed &&
			(spec.Address.Network == listen.UnixGram || !spec.Options.RefuseRights)
		s.passed = s.passed || spec.Address.Unix() && !spec.Options.RefuseRights && conf.Handover != "proxy"
		s.sockets = append(s.sockets, spec)
	}
	if sealed {
		s.lacks = append(sandbox.Running().SealLacks(direct), s.lacks...)
	}
	s.names = !direct
	return s
}

// sealOf chooses: UDP sockets answer only, by programs in the kernel or by a relay.
// Datagrams between unix sockets are relayed, since Landlock's scope would also
// refuse the answer to an abstract name; but what comes with the sender's identity
// or descriptors must come from the sender.
func sealOf(spec listen.Spec, answering func() bool) listen.Seal {
	o := &spec.Options
	switch {
	case spec.Address.UDP() && answering():
		return listen.ReplyOnly
	case spec.Address.UDP():
		return listen.Relayed
	case spec.Address.Network == listen.UnixGram && o.RefuseRights && !o.PassCredentials && !o.PassSecurity:
		return listen.Relayed
	}
	return listen.Unsealed
}

// socketLacks is what a socket's own seal lacks. An option that cannot be had is
// taken off: whoever does not insist goes on without it.
func socketLacks(spec *listen.Spec, connect string) (lacks []string) {
	if spec.Address.Unix() && spec.Options.RefuseRights && !listen.CanRefuseRights() {
		spec.Options.RefuseRights = false
		lacks = append(lacks, "this kernel cannot refuse descriptors at "+spec.Address.String()+
			" (SO_PASSRIGHTS, Linux 6.16): a client that colludes could pass a socket of the host's in; pass_rights = true accepts that")
	}
	if connect != "none" && (spec.Options.MPTCP || spec.Address.Network == listen.VSock) {
		lacks = append(lacks, "Landlock has no rules for "+spec.Address.String()+": with connect = "+strconv.Quote(connect)+
			" the service could connect it outward")
	}
	if connect != "none" && spec.Address.TCP() && sandbox.Running().Landlock < 4 {
		lacks = append(lacks, "this kernel's Landlock has no rules for TCP (ABI 4, Linux 6.7): with connect = "+strconv.Quote(connect)+
			" the service could connect "+spec.Address.String()+" outward")
	}
	return lacks
}

// checkSeal is the error of a service that asks for a seal which cannot be had.
func checkSeal(conf config.Service, lacks []string) error {
	if len(lacks) == 0 || conf.Sandbox.Seal != "required" {
		return nil
	}
	return fmt.Errorf("service %s: seal: %s; write seal = \"best-effort\" below [sandbox] to leave that open", conf.Name, strings.Join(lacks, "; "))
}

// describe says in a few words how a socket is sealed.
func describe(spec listen.Spec, conf config.Service) string {
	switch {
	case conf.Container != nil:
		return "not sealed: a container's own walls"
	case conf.Handover == "proxy":
		return "proxy: no socket of the host's enters"
	case conf.Sandbox.Seal == "off":
		return "not sealed"
	case spec.Seal == listen.ReplyOnly:
		return "direct, answers only: BPF"
	case spec.Seal == listen.Relayed:
		return "answers only: relay"
	case spec.Address.Network == listen.FIFO:
		return "a FIFO leads nowhere"
	case spec.Address.TCP() && !spec.Options.MPTCP:
		return "direct: seccomp + Landlock"
	case spec.Address.Network == listen.UnixGram:
		return "direct, to its own root: Landlock + mount namespace"
	}
	return "direct: seccomp"
}
