package spawn

import (
	"runtime"
	"sync"
)

// Starter starts every child of the activator from one thread. The kernel sends
// a child's Pdeathsig when the thread that started it ends (prctl(2)), and the
// Go runtime ends threads as it likes: this one is locked and ends with Close.
type Starter struct {
	requests chan func()
	done     chan struct{}
	close    sync.Once
	runtime  runtimeFolders
}

// NewStarter starts the thread.
func NewStarter() *Starter {
	s := &Starter{requests: make(chan func()), done: make(chan struct{})}
	go s.run()
	return s
}

// Close ends the thread, and with it every process that is still running.
func (s *Starter) Close() {
	s.close.Do(func() { close(s.requests) })
	<-s.done
}

func (s *Starter) run() {
	defer close(s.done)
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	for request := range s.requests {
		request()
	}
}

// do runs f on the starter's thread and returns when it is done.
func (s *Starter) do(f func()) {
	finished := make(chan struct{})
	s.requests <- func() {
		defer close(finished)
		f()
	}
	<-finished
}
