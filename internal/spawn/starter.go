package spawn

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Starter starts every child of the activator from a few threads of its own. The
// kernel sends a child's Pdeathsig when the thread that started it ends (prctl(2)),
// and the Go runtime ends threads as it likes: these are locked and end with Close.
type Starter struct {
	requests chan func()
	quit     chan struct{}
	done     chan struct{}
	threads  sync.WaitGroup
	close    sync.Once
	runtime  runtimeFolders
	guard    guard
	null     int      // /dev/null, lent to children
	slots    chan int // descriptors at which a child finds its end of the conversation; who takes one returns it
	mounts   mountTable
	spares   spares
}

// atOnce is how many children are started side by side: a thread stands still from
// the clone until its child has a table of descriptors of its own.
const atOnce = 4

// NewStarter starts the threads, and the guard from one of them.
func NewStarter() *Starter {
	s := &Starter{null: openNull(), requests: make(chan func()), slots: make(chan int, atOnce), quit: make(chan struct{}), done: make(chan struct{})}
	s.guard.starter, s.guard.patience, s.guard.held = s, guardPatience, make(map[*Process]struct{})
	for range atOnce {
		// Early, and so low: a child copies the table of descriptors up to here.
		slot, _ := unix.FcntlInt(uintptr(s.null), unix.F_DUPFD_CLOEXEC, 3)
		s.slots <- slot
		s.threads.Go(s.run)
	}
	go func() {
		s.threads.Wait()
		close(s.done)
	}()
	s.guard.mu.Lock()
	defer s.guard.mu.Unlock()
	_ = s.guard.renew() // the first start of a process tries again, and says why not
	return s
}

// Close ends the threads, and with them and by the guard every process that is
// still running.
func (s *Starter) Close() {
	s.close.Do(func() {
		s.spares.close()
		close(s.quit)
	})
	<-s.done
	s.guard.close()
	s.mounts.close()
	for range atOnce {
		_ = unix.Close(<-s.slots)
	}
	_ = unix.Close(s.null)
}

func openNull() int {
	fd, _ := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0) // else every start fails, and says so
	return fd
}

func (s *Starter) run() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for {
		select {
		case request := <-s.requests:
			request()
		case <-s.quit:
			return
		}
	}
}

// takeSlot takes a slot, when there is one; os.ErrClosed says that there will be none.
func (s *Starter) takeSlot() (int, error) {
	select {
	case slot := <-s.slots:
		return slot, nil
	case <-s.done:
		return -1, os.ErrClosed
	}
}

// StartProcess is [syscall.StartProcess] of this very binary on a thread of the
// starter's, for a helper of the activator that other packages own: argv[0] says
// which one, see main. The caller owns the child, kills and reaps it.
func (s *Starter) StartProcess(argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	closed := s.do(func() { pid, _, err = syscall.StartProcess("/proc/self/exe", argv, attr) })
	if closed != nil {
		return 0, closed
	}
	return pid, err
}

// do runs f on one of the starter's threads and returns when it is done; os.ErrClosed
// says that there are none any more.
func (s *Starter) do(f func()) error {
	finished := make(chan struct{})
	request := func() {
		defer close(finished)
		f()
	}
	select {
	case s.requests <- request:
		<-finished
		return nil
	case <-s.done:
		return os.ErrClosed
	}
}
