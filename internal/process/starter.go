package process

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/process/guard"
	"activator/internal/sandbox"
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
	guard    *guard.Guard
	null     int      // /dev/null, lent to children
	slots    chan int // descriptors at which a child finds its end of the conversation; who takes one returns it
	mounts   mountTable
	reserve  reserve
}

// mostAtOnce is how many children are started side by side: a thread stands still from
// the clone until its child has a table of descriptors of its own.
const mostAtOnce = 4

// NewStarter starts the threads, and the guard from one of them. Without all that they
// need no process can be started, and the error says what is missing.
func NewStarter() (*Starter, error) {
	s := &Starter{requests: make(chan func()), slots: make(chan int, mostAtOnce), quit: make(chan struct{}), done: make(chan struct{})}
	if err := s.openDescriptors(); err != nil {
		s.closeDescriptors()
		return nil, err
	}
	for range mostAtOnce {
		s.threads.Go(s.runThread)
	}
	go func() {
		s.threads.Wait()
		close(s.done)
	}()
	var err error
	if s.guard, err = guard.Start(s.startGuard); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close ends the threads, and with them and by the guard every process that is
// still running.
func (s *Starter) Close() {
	s.close.Do(func() {
		s.reserve.closeReserve()
		close(s.quit)
	})
	<-s.done
	s.guard.Close()
	s.mounts.closeTable()
	s.closeDescriptors()
}

// openDescriptors opens what every start needs. Early, and so low: a child copies the
// table of descriptors up to its slot.
func (s *Starter) openDescriptors() (err error) {
	if s.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return sandbox.OpenError("open", os.DevNull, err)
	}
	for range mostAtOnce {
		slot, err := unix.FcntlInt(uintptr(s.null), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			return sandbox.OpenError("fcntl F_DUPFD_CLOEXEC", os.DevNull, err)
		}
		s.slots <- slot
	}
	return nil
}

// closeDescriptors closes them. Every slot that was taken has been returned.
func (s *Starter) closeDescriptors() {
	for range len(s.slots) {
		_ = unix.Close(<-s.slots)
	}
	if s.null >= 0 {
		_ = unix.Close(s.null)
	}
}

func (s *Starter) runThread() {
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

// startSelf is [syscall.StartProcess] of this very binary on a thread of the
// starter's: argv[0] says what it is to be, see main. The caller owns the child, kills and
// reaps it.
func (s *Starter) startSelf(argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	const self = "/proc/self/exe"
	closed := s.runOnThread(func() { pid, _, err = syscall.StartProcess(self, argv, attr) })
	if closed != nil {
		return 0, closed
	}
	if err != nil {
		return 0, sandbox.OpenError("start "+argv[0]+" from", self, err)
	}
	return pid, nil
}

// runOnThread runs f on one of the starter's threads and returns when it is done; os.ErrClosed
// says that there are none any more.
func (s *Starter) runOnThread(f func()) error {
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
