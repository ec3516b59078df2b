package listen

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher tells when sockets become readable and when their nodes change, for
// all sockets of the process in one goroutine: one epoll that holds the armed
// sockets and one inotify. A goroutine per socket (SyscallConn().Read) would do
// the same, but thousands of them cost memory, and the runtime's own poller is
// woken by every client of a socket that a running service serves; here a
// socket that is not armed is in no poller at all.
type Watcher struct {
	epoll *os.File // in the runtime's poller

	mu     sync.Mutex
	closed bool
	nextID int64
	armed  map[int64]*waiting // by the id in the epoll event
	byOwn  map[*Socket]*waiting
	tree   tree
}

// waiting is a socket that somebody waits for, once.
type waiting struct {
	id    int64
	s     *Socket
	file  *os.File // registered in epoll; nil while the socket has none
	ready func()
}

// treeID is the inotify's id in the epoll.
const treeID = 0

// NewWatcher makes an idle watcher; [Watcher.Run] brings it to life.
func NewWatcher() (*Watcher, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watcher: %w", syscallError("epoll_create1", err))
	}
	// os.NewFile puts only non-blocking files into the runtime's poller.
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("watcher: %w", syscallError("fcntl", err))
	}
	w := &Watcher{
		epoll: os.NewFile(uintptr(fd), "epoll"),
		armed: make(map[int64]*waiting),
		byOwn: make(map[*Socket]*waiting),
	}
	if err := w.epoll.SetReadDeadline(time.Time{}); err != nil {
		_ = w.epoll.Close()
		return nil, fmt.Errorf("watcher: %w", err)
	}
	w.tree.file, err = newInotify()
	if err == nil {
		err = w.register(unix.EPOLL_CTL_ADD, w.tree.file, treeID, unix.EPOLLIN)
	}
	if err != nil {
		_ = w.Close()
		return nil, fmt.Errorf("watcher: %w", err)
	}
	return w, nil
}

// Run calls the callbacks until ctx ends, which is no error, or the watcher is
// closed. It wakes for nothing else. The callbacks must not block; they may call
// any method but Run and Close.
func (w *Watcher) Run(ctx context.Context) error {
	conn, err := w.epoll.SyscallConn()
	if err != nil {
		return err
	}
	if err := w.epoll.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	awake := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(awake)
		_ = w.epoll.SetReadDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-awake
		}
	}()
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := waitEvents(conn.Read, events)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watcher: %w", err)
		}
		for _, call := range w.collect(events[:n]) {
			call()
		}
	}
}

// waitEvents asks the epoll without waiting and lets the runtime wait for the
// epoll itself to become readable. epoll(7) on nesting.
func waitEvents(read func(func(uintptr) bool) error, events []unix.EpollEvent) (n int, err error) {
	var inner error
	err = read(func(fd uintptr) bool {
		inner = ignoringEINTR(func() (err error) {
			n, err = unix.EpollWait(int(fd), events, 0)
			return err
		})
		return n > 0 || inner != nil
	})
	if err == nil {
		err = syscallError("epoll_wait", inner)
	}
	return max(n, 0), err
}

// collect disarms what fired and returns whom to call.
func (w *Watcher) collect(events []unix.EpollEvent) []func() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var calls []func()
	for _, e := range events {
		id := eventID(&e)
		if id == treeID {
			calls = append(calls, w.tree.read()...)
			continue
		}
		// It may have been forgotten since the event.
		if x := w.armed[id]; x != nil {
			w.drop(x)
			calls = append(calls, x.ready)
		}
	}
	return calls
}

// WaitReadable arms s once: ready is called, once and from the goroutine of Run,
// when a client waits in the queue of s, also when it does already, or when s is
// broken (then [Socket.Mend] helps). Nothing is taken off the queue. Arming an
// armed socket replaces ready.
func (w *Watcher) WaitReadable(s *Socket, ready func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fail(s.spec.Address, "watcher", ErrClosed, "")
	}
	if x := w.byOwn[s]; x != nil {
		x.ready = ready
		return nil
	}
	w.nextID++
	x := &waiting{id: w.nextID, s: s, file: s.front(), ready: ready}
	if err := w.register(unix.EPOLL_CTL_ADD, x.file, x.id, readable); err != nil {
		return fail(s.spec.Address, "", err, "")
	}
	w.armed[x.id], w.byOwn[s] = x, x
	s.watcher = w
	return nil
}

// readable is once, level-triggered: epoll looks at the queue when it is added.
const readable = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT

// register adds or removes file. Removing matters: a description that a service
// still holds stays in the epoll when our descriptor is closed. epoll(7), Q6.
func (w *Watcher) register(op int, file *os.File, id int64, events uint32) error {
	return control(w.epoll, func(epfd int) error {
		return control(file, func(fd int) error {
			event := unix.EpollEvent{Events: events, Fd: int32(id), Pad: int32(id >> 32)}
			return syscallError("epoll_ctl", unix.EpollCtl(epfd, op, fd, &event))
		})
	})
}

func eventID(e *unix.EpollEvent) int64 { return int64(uint32(e.Fd)) | int64(e.Pad)<<32 }

// drop takes x out; with w.mu.
func (w *Watcher) drop(x *waiting) {
	w.park(x)
	delete(w.armed, x.id)
	delete(w.byOwn, x.s)
}

func (w *Watcher) park(x *waiting) {
	if x.file != nil {
		_ = w.register(unix.EPOLL_CTL_DEL, x.file, x.id, 0)
		x.file = nil
	}
}

// disarm takes the descriptor of s out before it is closed; s stays armed for
// the one that move brings.
func (w *Watcher) disarm(s *Socket) {
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

// Forget drops what was asked for s. A callback that is running already may
// still end after it.
func (w *Watcher) Forget(s *Socket) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if x := w.byOwn[s]; x != nil {
		w.drop(x)
	}
	w.tree.forget(s)
}

// WatchNode calls changed, from the goroutine of Run, whenever the node of s, its
// spare or a folder above may have been deleted, replaced or renamed: the time
// for [Socket.HealNode]. A socket without a node is never called.
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
		return fail(s.spec.Address, "watcher", ErrClosed, "")
	}
	s.watcher = w
	return fail(s.spec.Address, "", w.tree.watch(s, s.node.path, changed), "changes of the node go unnoticed")
}

// rewatch looks up the folders of s again.
func (w *Watcher) rewatch(s *Socket) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if u := w.tree.users[s]; u != nil {
		return w.tree.watch(s, u.path, u.changed)
	}
	return nil
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
	err := w.epoll.Close()
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
