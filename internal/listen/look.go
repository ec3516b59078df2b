package listen

import (
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// slowly is how often nodes are looked at that cannot be watched.
var slowly = 2 * time.Second

// watchNode watches the node of s, or has it looked at now and then: all instances
// of inotify may be used up (others of this user have them), or all watches, or a
// folder may not be read. With w.mu.
func (w *Watcher) watchNode(s *Socket, n node, changed func()) error {
	missing := w.openTree()
	err := w.tree.watch(s, n, changed)
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
			"socket", s.spec.Address.String(), "every", slowly, "err", err)
	}
	return nil
}

// openTree makes the inotify for the first node. Who has only sockets of the
// network needs none.
func (w *Watcher) openTree() error {
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
func (w *Watcher) startClock() error {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return syscallError("timerfd_create", err)
	}
	w.clock = os.NewFile(uintptr(fd), "timer")
	every := unix.NsecToTimespec(slowly.Nanoseconds())
	err = unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil)
	if err == nil {
		err = w.loop.Control(unix.EPOLL_CTL_ADD, w.clock, w.clockID, unix.EPOLLIN)
	}
	if err != nil {
		w.stopClock()
		return syscallError("timerfd_settime", err)
	}
	return nil
}

func (w *Watcher) stopClock() {
	if w.clock != nil {
		_ = w.clock.Close() // also takes it out of the epoll: nobody else has it
		w.clock = nil
	}
}

// look tries again to watch, and returns whom to call: whose node or spare is not in
// its place. What stays there instead is told once.
func (w *Watcher) look() []func() {
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
	for s, u := range w.tree.users {
		if !u.slow {
			continue
		}
		_ = w.tree.watch(s, u.node, u.changed)
		u = w.tree.users[s]
		slow = slow || u.slow
		switch now := u.node.look(); {
		case now.node == u.node.id && (now.spare == u.node.id || !u.node.made):
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

// standing is what stands at a node's path and at its spare's (zero: nothing), and
// which is the first on the way up that is there at all.
type standing struct {
	node, spare inode
	near        string
	nearID      inode
}

func (n *node) look() (now standing) {
	now.node, now.spare = standsAt(n.path), standsAt(sparePath(n.path))
	for now.near = n.path; now.nearID == (inode{}) && now.near != "/"; {
		now.near = filepath.Dir(now.near)
		now.nearID = standsAt(now.near)
	}
	return now
}

// standsAt only looks; what is done then is done beneath the folder.
func standsAt(path string) inode {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil {
		return inode{}
	}
	return inode{st.Dev, st.Ino}
}
