package listen

import (
	"context"
	"fmt"
	"log/slog"
	"time"

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
	interests
	running bool // in Run, which closes the loop then; with the mutex
}

// NewWatcher makes an idle watcher; [Watcher.Run] brings it to life. It says in the
// log, which may be nil, when nodes cannot be watched.
func NewWatcher(log *slog.Logger) (*Watcher, error) {
	loop, err := epoll.NewLoop()
	if err != nil {
		return nil, fmt.Errorf("watcher: %w", err)
	}
	return &Watcher{interests: interests{loop: loop, armed: make(map[epoll.ID]*interest), nodes: newNodeWatch(loop, log)}}, nil
}

// Run calls the callbacks until ctx ends, which is no error, or the watcher is
// closed. It wakes for nothing else. The callbacks must not block; they may call
// any method but Run and Close.
func (w *Watcher) Run(ctx context.Context) error {
	if err := w.beginRun(); err != nil {
		return err
	}
	defer w.endRun()
	defer fd.AfterFunc(ctx, w.loop.WakeUp)()
	for {
		events, err := w.loop.Wait()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watcher: %w", err)
		}
		calls, err := w.collectCalls(events)
		if err != nil {
			return err
		}
		for _, call := range calls {
			call()
		}
	}
}

func (w *Watcher) beginRun() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("watcher: %w", errClosed)
	}
	w.running = true
	return nil
}

func (w *Watcher) endRun() {
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
		if x := &s.interest; x.id != 0 {
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
		if s.interest.id != 0 {
			ids = append(ids, s.interest.id)
		}
	}
	by, at, fired = w.loop.DisarmFastPath(r, ids...)
	if fired {
		w.disarm(&sockets[by].interest) // it will not fire again, and need not be told of
	}
	return by, at, fired
}

// collectCalls disarms what fired and returns what to call.
func (w *Watcher) collectCalls(events []epoll.Event) ([]func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fmt.Errorf("watcher: %w", errClosed)
	}
	var calls []func()
	for _, e := range events {
		if e.ID == w.nodes.treeID {
			calls = append(calls, w.nodes.tree.readEvents()...)
			continue
		}
		if e.ID == w.nodes.clockID {
			calls = append(calls, w.nodes.lookAgain()...)
			continue
		}
		x := w.armed[e.ID]
		switch {
		case x == nil: // it may have been forgotten since the event
		case e.Answered:
			calls = append(calls, x.answered)
			w.disarm(x)
		default:
			calls = append(calls, x.ready)
			w.disarm(x)
		}
	}
	return calls, nil
}

// WaitReadable arms s once: ready is called, once and from the goroutine of Run,
// when a client waits in the queue of s, also when it does already, or when s is
// broken (then [Socket.Mend] helps). Nothing is taken off the queue. Arming an
// armed socket replaces ready, and has its queue asked once more: whatever was lent,
// moved or refused since, no client waits in it unseen.
func (w *Watcher) WaitReadable(s *Socket, ready func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return wrapError(s.spec.Address, "watcher", errClosed, "")
	}
	if s.relay != nil {
		defer s.relay.AskQueue()
	}
	s.interest.in = &w.interests
	return wrapError(s.spec.Address, "", w.armInterest(&s.interest, s.frontFile(), ready), "")
}

// ForgetSocket drops what was asked for s. A callback that is running already may
// still end after it.
func (w *Watcher) ForgetSocket(s *Socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forgetInterest(&s.interest)
}

// WatchNode calls changed, from the goroutine of Run, whenever the node of s, its
// reserve, one of its symlinks or a folder above may have been deleted, replaced or renamed: the time
// for [Socket.MendNode]. A socket without a node is never called. Where the node
// cannot be watched a timer looks at it.
func (w *Watcher) WatchNode(s *Socket, changed func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkOpen(); err != nil {
		return err
	}
	if s.node == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return wrapError(s.spec.Address, "watcher", errClosed, "")
	}
	s.interest.in = &w.interests
	err := w.nodes.watchNode(&s.interest, watchedNode{*s.node, s.spec.Address.String(), changed})
	if links := w.nodes.watchLinks(&s.interest, s.links, s.spec.Address.String(), changed); err == nil {
		err = links
	}
	return wrapError(s.spec.Address, "", err, "changes of the node go unnoticed")
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
		w.disarm(x)
	}
	w.nodes.close()
	if w.running {
		w.loop.WakeUp()
	} else {
		w.loop.Close()
	}
	return nil
}
