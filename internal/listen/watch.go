package listen

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
	"activator/internal/kernel/fd"
)

// Watcher tells when sockets become readable and when their nodes change, for
// all sockets of the process in one goroutine with a thread of its own: one epoll
// that holds the armed sockets, and one inotify if there are nodes. A goroutine per socket
// (fd.Read) would do the same, but thousands of them cost memory, and
// the runtime's own poller is woken by every client of a socket that a running
// service serves; here a socket that is not armed is in no poller at all.
type Watcher struct {
	loop *epoll.Loop
	log  *slog.Logger // nil: says nothing

	mu      sync.Mutex
	closed  bool
	running bool                  // in Run, which closes the loop then
	armed   map[epoll.ID]*waiting // by the id in the event
	byOwn   map[*Socket]*waiting
	tree    tree
	treeID  epoll.ID
	clock   *os.File // a timer, while there are nodes that cannot be watched
	clockID epoll.ID
}

// waiting is a socket that somebody waits for, once.
type waiting struct {
	id       epoll.ID
	s        *Socket
	file     *os.File // registered in epoll; nil while the socket has none
	ready    func()
	answered func() // instead of ready, when the fast path has been carried out
}

// NewWatcher makes an idle watcher; [Watcher.Run] brings it to life. It says in the
// log, which may be nil, when nodes cannot be watched.
func NewWatcher(log *slog.Logger) (*Watcher, error) {
	loop, err := epoll.NewLoop()
	if err != nil {
		return nil, fmt.Errorf("watcher: %w", err)
	}
	return &Watcher{
		loop:    loop,
		log:     log,
		armed:   make(map[epoll.ID]*waiting),
		byOwn:   make(map[*Socket]*waiting),
		treeID:  loop.NewID(),
		clockID: loop.NewID(),
	}, nil
}

// Run calls the callbacks until ctx ends, which is no error, or the watcher is
// closed. It wakes for nothing else. The callbacks must not block; they may call
// any method but Run and Close.
func (w *Watcher) Run(ctx context.Context) error {
	if err := w.begin(); err != nil {
		return err
	}
	defer w.end()
	defer fd.AfterFunc(ctx, w.loop.WakeUp)()
	for {
		events, err := w.loop.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watcher: %w", err)
		}
		calls, err := w.collect(events)
		if err != nil {
			return err
		}
		for _, call := range calls {
			call()
		}
	}
}

func (w *Watcher) begin() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("watcher: %w", errClosed)
	}
	w.running = true
	return nil
}

func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = false
	if w.closed {
		w.loop.Close()
	}
}

// ArmFastPath has r carried out, once and at once, when one of the sockets that are waited
// for has a client, until Disarm. It lends r. A few milliseconds after it has been,
// answered is called from the goroutine of Run, and ready not. Where it cannot be
// carried out ready is called, as without it.
func (w *Watcher) ArmFastPath(r *epoll.FastPath, sockets []*Socket, answered func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]epoll.ID, len(sockets))
	for i, s := range sockets {
		if x := w.byOwn[s]; x != nil {
			ids[i], x.answered = x.id, answered
		}
	}
	w.loop.ArmFastPath(r, ids...)
}

// DisarmFastPath ends that, and reports whether r has been carried out, when, and for a
// client of which of the sockets that Arm was given.
func (w *Watcher) DisarmFastPath(r *epoll.FastPath, sockets []*Socket) (by int, at time.Time, fired bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ids []epoll.ID
	for _, s := range sockets {
		if x := w.byOwn[s]; x != nil {
			ids = append(ids, x.id)
		}
	}
	by, at, fired = w.loop.DisarmFastPath(r, ids...)
	if fired {
		if x := w.byOwn[sockets[by]]; x != nil {
			w.drop(x) // it will not fire again, and need not be told of
		}
	}
	return by, at, fired
}

// collect disarms what fired and returns whom to call.
func (w *Watcher) collect(events []epoll.Event) ([]func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("watcher: %w", errClosed)
	}
	var calls []func()
	for _, e := range events {
		if e.ID == w.treeID {
			calls = append(calls, w.tree.read()...)
			continue
		}
		if e.ID == w.clockID {
			calls = append(calls, w.look()...)
			continue
		}
		x := w.armed[e.ID]
		switch {
		case x == nil: // it may have been forgotten since the event
		case e.Answered:
			w.drop(x)
			calls = append(calls, x.answered)
		default:
			w.drop(x)
			calls = append(calls, x.ready)
		}
	}
	return calls, nil
}

// WaitReadable arms s once: ready is called, once and from the goroutine of Run,
// when a client waits in the queue of s, also when it does already, or when s is
// broken (then [Socket.Mend] helps). Nothing is taken off the queue. Arming an
// armed socket replaces ready, and has its queue asked once more: whatever was lent,
// moved or refused since, nobody waits in it unseen.
func (w *Watcher) WaitReadable(s *Socket, ready func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fail(s.spec.Address, "watcher", errClosed, "")
	}
	if s.relay != nil {
		defer s.relay.AskQueue()
	}
	if x := w.byOwn[s]; x != nil {
		x.ready = ready
		return fail(s.spec.Address, "", w.ask(x), "")
	}
	x := &waiting{id: w.loop.NewID(), s: s, ready: ready}
	if err := w.ask(x); err != nil {
		w.loop.FreeID(x.id)
		return fail(s.spec.Address, "", err, "")
	}
	w.armed[x.id], w.byOwn[s] = x, x
	s.watcher = w
	return nil
}

// ask has epoll look at the queue of x: it does when a descriptor is added, and when it
// is modified. With the socket's mutex.
func (w *Watcher) ask(x *waiting) error {
	if x.file != nil && x.file == x.s.front() {
		err := w.register(unix.EPOLL_CTL_MOD, x.file, x.id, readable)
		if !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	w.park(x)
	if err := w.register(unix.EPOLL_CTL_ADD, x.s.front(), x.id, readable); err != nil {
		return err
	}
	x.file = x.s.front()
	return nil
}

// readable is once, level-triggered.
const readable = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT

// register adds, modifies or removes file. Removing matters: a description that a service
// still holds stays in the epoll when our descriptor is closed. epoll(7), Q6.
func (w *Watcher) register(op int, file *os.File, id epoll.ID, events uint32) error {
	if file == nil {
		return errClosed
	}
	return w.loop.Control(op, file, id, events)
}

// drop takes x out; with w.mu.
func (w *Watcher) drop(x *waiting) {
	w.park(x)
	w.loop.FreeID(x.id)
	delete(w.armed, x.id)
	delete(w.byOwn, x.s)
}

func (w *Watcher) park(x *waiting) {
	if x.file != nil {
		_ = w.register(unix.EPOLL_CTL_DEL, x.file, x.id, 0)
		x.file = nil
	}
}

// leave takes the descriptor of s out before it is closed; s stays armed for
// the one that move brings.
func (w *Watcher) leave(s *Socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byOwn[s]; x != nil {
		w.park(x)
	}
}

// move registers the new descriptor of s if s is armed.
func (w *Watcher) move(s *Socket, file *os.File) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.byOwn[s]
	if x == nil {
		return nil
	}
	w.park(x)
	if err := w.register(unix.EPOLL_CTL_ADD, file, x.id, readable); err != nil {
		return err
	}
	x.file = file
	return nil
}

// ForgetSocket drops what was asked for s. A callback that is running already may
// still end after it.
func (w *Watcher) ForgetSocket(s *Socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byOwn[s]; x != nil {
		w.drop(x)
	}
	w.tree.forget(s)
}

// WatchNode calls changed, from the goroutine of Run, whenever the node of s, its
// spare or a folder above may have been deleted, replaced or renamed: the time
// for [Socket.MendNode]. A socket without a node is never called. Where the node
// cannot be watched a timer looks at it.
func (w *Watcher) WatchNode(s *Socket, changed func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if s.node == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fail(s.spec.Address, "watcher", errClosed, "")
	}
	s.watcher = w
	return fail(s.spec.Address, "", w.watchNode(s, *s.node, changed), "changes of the node go unnoticed")
}

// rewatch looks up the folders of s again. What is not as it should be now may be
// told anew, once mended is true.
func (w *Watcher) rewatch(s *Socket, mended bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	u := w.tree.users[s]
	if u == nil {
		return nil
	}
	if mended {
		u.told = nil
	}
	return w.watchNode(s, *s.node, u.changed)
}

// Close ends Run and forgets all sockets. Twice is fine.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	for _, x := range w.armed {
		w.drop(x)
	}
	w.tree.close()
	w.stopClock()
	if w.running {
		w.loop.WakeUp()
	} else {
		w.loop.Close()
	}
	return nil
}
