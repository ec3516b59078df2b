package listen

import (
	"errors"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/epoll"
)

// lookInterval is how often nodes are looked at that cannot be watched.
var lookInterval = 2 * time.Second

// nodeWatch watches nodes by inotify, and those that cannot be watched by a timer.
type nodeWatch struct {
	loop    *epoll.Loop
	log     *slog.Logger // nil: says nothing
	tree    tree
	treeID  epoll.ID
	clock   *os.File // a timer, while there are nodes that cannot be watched
	clockID epoll.ID
}

func newNodeWatch(loop *epoll.Loop, log *slog.Logger) nodeWatch {
	return nodeWatch{loop: loop, log: log, treeID: loop.NewID(), clockID: loop.NewID()}
}

// watchNode watches the node that of has, or has it looked at now and then: all instances
// of inotify may be used up (others of this user have them), or all watches, or a
// folder may not be read.
func (w *nodeWatch) watchNode(of any, n watchedNode) error {
	missing := w.openTree()
	err := w.tree.watchNode(of, n)
	if missing != nil {
		err = missing
	}
	if err == nil || w.clock != nil {
		return nil
	}
	if failed := w.startClock(); failed != nil {
		return failed
	}
	if w.log != nil {
		w.log.Warn("nodes cannot be watched: they are looked at now and then, and put back later when somebody deletes them",
			"socket", n.socket, "every", lookInterval, "err", err)
	}
	return nil
}

// linkOf is whose symlink is watched: that of an interest, at a path.
type linkOf struct {
	x    *interest
	path string
}

// watchLinks watches the symlinks of x, as nodes are watched, instead of those before.
func (w *nodeWatch) watchLinks(x *interest, links []string, socket string, changed func()) (err error) {
	w.forgetLinks(x)
	x.links = links
	for _, path := range links {
		n := node{path: path, id: inodeAt(path)}
		err = errors.Join(err, w.watchNode(linkOf{x, path}, watchedNode{n, socket, changed}))
	}
	return err
}

func (w *nodeWatch) forgetLinks(x *interest) {
	for _, path := range x.links {
		w.tree.forgetNode(linkOf{x, path})
	}
	x.links = nil
}

// rewatchNode looks up the folders of a node again. What is not as it should be now may be told
// anew, once mended is true.
func (w *nodeWatch) rewatchNode(of any, n node, mended bool) error {
	u := w.tree.users[of]
	if u == nil {
		return nil
	}
	if mended {
		u.told = nil
	}
	return w.watchNode(of, watchedNode{n, u.socket, u.changed})
}

// openTree makes the inotify for the first node. Sockets of the network need none.
func (w *nodeWatch) openTree() error {
	if w.tree.file != nil {
		return nil
	}
	file, err := newInotify()
	if err != nil {
		return err
	}
	if err := w.loop.Control(unix.EPOLL_CTL_ADD, file, w.treeID, unix.EPOLLIN); err != nil {
		_ = file.Close()
		return err
	}
	w.tree.file = file
	return nil
}

// startClock has look called every so often. timerfd_create(2). Blocking, so not in
// the runtime's poller.
func (w *nodeWatch) startClock() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	w.clock = os.NewFile(uintptr(fd), "timer")
	every := unix.NsecToTimespec(lookInterval.Nanoseconds())
	err = unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
	if err == nil {
		err = w.loop.Control(unix.EPOLL_CTL_ADD, w.clock, w.clockID, unix.EPOLLIN)
	}
	if err != nil {
		w.stopClock()
		return os.NewSyscallError("timerfd_settime", err)
	}
	return nil
}

func (w *nodeWatch) stopClock() {
	if w.clock != nil {
		_ = w.clock.Close() // also takes it out of the epoll: no other process has it
		w.clock = nil
	}
}

// lookAgain tries again to watch, and returns what to call, for each node that is not in its place, or whose
// reserve is not. What stays there instead is told once.
func (w *nodeWatch) lookAgain() []func() {
	if w.clock == nil {
		return nil // stopped since
	}
	_ = control(w.clock, func(fd int) error {
		if pollNow(fd)&unix.POLLIN == 0 {
			return nil // the event was that of a timer before it
		}
		_, err := unix.Read(fd, make([]byte, 8))
		return err
	})
	_ = w.openTree()
	slow := false
	var calls []func()
	for of, u := range w.tree.users {
		if !u.slow {
			continue
		}
		_ = w.tree.watchNode(of, u.watchedNode)
		u = w.tree.users[of]
		slow = slow || u.slow
		switch now := u.node.lookUp(); {
		case now.node == u.node.id && (now.reserve == u.node.id || !u.node.made):
			u.told = nil
		case u.told == nil || *u.told != now:
			u.told = &now
			calls = append(calls, u.changed)
		}
	}
	if !slow {
		w.stopClock()
	}
	return calls
}

func (w *nodeWatch) close() {
	w.tree.close()
	w.stopClock()
}
