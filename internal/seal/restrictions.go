package seal

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"activator/internal/kernel/sockopt"
	"activator/internal/listen"
	"activator/internal/netns"
	"activator/internal/seal/sockfilter"
	"activator/internal/seal/udprelay"
	"activator/internal/spec"
)

// Restrictions keep the sockets of sealed services from being turned outward, all of an
// activator. Each is made when the first socket needs it.
type Restrictions struct {
	log       *slog.Logger
	filter    udpFilter
	listeners listenerFilter
	relays    relays
}

// New returns restrictions that nothing has been made for yet.
func New(log *slog.Logger) *Restrictions {
	return &Restrictions{log: log, filter: udpFilter{log: log}, relays: relays{log: log, ids: make(map[spec.Address]int)}}
}

// Answering reports whether UDP sockets can be made that only answer, by trying, once.
func (r *Restrictions) Answering() bool { return r.filter.loadPrograms() == nil }

// Accepting reports whether TCP sockets can be made that only accept, likewise.
func (r *Restrictions) Accepting() bool { return r.listeners.loadPrograms() == nil }

// Trial are abilities that are tried, and nothing of them stays. The kernel is asked once, also for many
// sockets: each time it loads programs.
var Trial Abilities = trial{}

type trial struct{}

func (trial) Answering() bool { return canAnswer() }
func (trial) Accepting() bool { return canAccept() }

var (
	canAccept = sync.OnceValue(func() bool {
		ok, _, _ := sockfilter.ListenerAbility()
		return ok
	})
	canAnswer = sync.OnceValue(func() bool {
		ok, _, _ := sockfilter.Ability()
		return ok
	})
)

// Means are the restrictions as package listen wants them.
func (r *Restrictions) Means() listen.Means {
	return listen.Means{
		Restrictions: map[spec.Seal]listen.Restriction{spec.ReplyOnly: &r.filter, spec.Relayed: &r.relays, spec.AcceptOnly: &r.listeners},
		Warn:         func(text string) { r.log.Warn(text) },
	}
}

// Use says which user and group a relay's answers are from, 0: ours, before the socket
// is lent.
func (r *Restrictions) Use(address spec.Address, id int) { r.relays.setID(address, id) }

// Close closes what was made. The sockets must be closed before.
func (r *Restrictions) Close() {
	r.filter.close()
	r.listeners.close()
	_ = r.relays.namespaces.Close()
}

// udpFilter has the kernel's programs see to it that UDP sockets only answer. It is a
// [listen.Restriction].
type udpFilter struct {
	listen.Plain
	log      *slog.Logger
	programs *sockfilter.Programs // nil: not asked for yet, or refused
	refusal  error                // why there are no programs
}

func (f *udpFilter) loadPrograms() error {
	if f.programs == nil && f.refusal == nil {
		f.programs, f.refusal = sockfilter.Open(0)
	}
	return f.refusal
}

func (f *udpFilter) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	return f.programs.MakeSockets(kinds)
}

func (f *udpFilter) Admit(bound *os.File) error { return f.programs.Admit(bound) }

func (f *udpFilter) Admits() bool { return true }

func (f *udpFilter) ReleaseSocket(made *os.File) {
	if err := f.programs.Forget(made); err != nil {
		f.log.Warn("table of a UDP socket's clients not given back", "err", err)
	}
}

func (f *udpFilter) close() {
	if f.programs != nil {
		_ = f.programs.Close()
	}
}

// listenerFilter has the kernel's programs see to it that TCP sockets only accept. It is a
// [listen.Restriction].
type listenerFilter struct {
	listen.Plain
	programs *sockfilter.Listeners // nil: not asked for yet, or refused
	refusal  error                 // why there are no programs
}

func (f *listenerFilter) loadPrograms() error {
	if f.programs == nil && f.refusal == nil {
		f.programs, f.refusal = sockfilter.OpenListeners()
	}
	return f.refusal
}

func (f *listenerFilter) MakeSockets(kinds []spec.Kind) ([]*os.File, error) {
	return f.programs.MakeSockets(kinds)
}

func (f *listenerFilter) Password() sockopt.Password { return f.programs.Password() }

func (f *listenerFilter) close() {
	if f.programs != nil {
		f.programs.Close()
	}
}

// relays lend a socket of another network namespace in a host's place, and carry between
// the two. They are a [listen.Restriction].
type relays struct {
	listen.Plain
	log        *slog.Logger
	namespaces netns.Owner

	mu  sync.Mutex
	ids map[spec.Address]int
}

func (r *relays) setID(address spec.Address, id int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids[address] = id
}

func (r *relays) idOf(address spec.Address) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ids[address]
}

// OpenRelaySocket makes a relay of what comes to bound.
func (r *relays) OpenRelaySocket(bound *os.File, want spec.Socket, undelivered *udprelay.Undelivered) (listen.RelaySocket, error) {
	id := r.idOf(want.Address)
	log := r.log.With("socket", want.Address.String())
	flows, err := udprelay.OpenSocketRelay(&r.namespaces, bound, udprelay.Options{UID: id, GID: id, Undelivered: undelivered, Log: log})
	if err != nil {
		return nil, err
	}
	s := &relaySocket{SocketRelay: flows, log: log}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// relaySocket is a relay, at work from Run on.
type relaySocket struct {
	*udprelay.SocketRelay
	log     *slog.Logger
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup
}

// Run implements [listen.RelaySocket]. It relays until Close.
func (s *relaySocket) Run() {
	s.running.Go(func() {
		keepRunning(s.ctx, s.SocketRelay.Run, func(err error) { s.log.Error("relay held up: it goes on", "err", err) })
	})
}

// holdUp is how long a relay rests that the kernel has refused something it never refuses.
var holdUp = time.Second

// keepRunning runs until ctx ends; what run keeps goes on after an error.
func keepRunning(ctx context.Context, run func(context.Context) error, failed func(error)) {
	for {
		err := run(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		failed(err)
		select {
		case <-time.After(holdUp):
		case <-ctx.Done():
		}
	}
}

func (s *relaySocket) Close() error {
	s.stop()
	err := s.SocketRelay.Close()
	s.running.Wait()
	return err
}
