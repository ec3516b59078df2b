package process

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"activator/internal/sandbox"
)

// threads start every child of the activator. The kernel sends a child's Pdeathsig when
// the thread that started it ends (prctl(2)), and the Go runtime ends threads as it likes:
// these are locked, and end with endThreads.
type threads struct {
	requests chan func()
	quit     chan struct{}
	done     chan struct{}
	running  sync.WaitGroup
}

// mostAtOnce is how many children are started side by side: a thread stands still from
// the clone until its child has a table of descriptors of its own.
const mostAtOnce = 4

func startThreads() *threads {
	t := &threads{requests: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	for range mostAtOnce {
		t.running.Go(t.runThread)
	}
	go func() {
		t.running.Wait()
		close(t.done)
	}()
	return t
}

func (t *threads) runThread() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for {
		select {
		case request := <-t.requests:
			request()
		case <-t.quit:
			return
		}
	}
}

// endThreads is called once.
func (t *threads) endThreads() {
	close(t.quit)
	<-t.done
}

// runOnThread runs f on one of the threads and returns when it is done; os.ErrClosed
// says that there are none any more.
func (t *threads) runOnThread(f func()) error {
	finished := make(chan struct{})
	request := func() {
		defer close(finished)
		f()
	}
	select {
	case t.requests <- request:
		<-finished
		return nil
	case <-t.done:
		return os.ErrClosed
	}
}

// startSelf is [syscall.StartProcess] of this very binary on one of the threads: argv[0]
// says what it is to be, see main. The caller owns the child, kills and reaps it.
func (t *threads) startSelf(argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	const self = "/proc/self/exe"
	closed := t.runOnThread(func() { pid, _, err = syscall.StartProcess(self, argv, attr) })
	if closed != nil {
		return 0, closed
	}
	if err != nil {
		return 0, sandbox.OpenError("start "+argv[0]+" from", self, err)
	}
	return pid, nil
}
