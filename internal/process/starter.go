package process

import (
	"sync"
	"syscall"

	"activator/internal/process/guard"
	"activator/internal/spec"
)

// Starter starts every process of the activator, and has what they share.
type Starter struct {
	// Warn is told, while a process is prepared, what its service should know of its folders. It is
	// set before the first one. May be nil.
	Warn func(service, text string)

	*cloner
	close   sync.Once
	guard   *guard.Guard
	runtime runtimeFolders
	mounts  mountTable
	reserve reserve
}

// NewStarter starts the threads, and the guard from one of them. Without all that they
// need no process can be started, and the error says what is missing.
func NewStarter() (*Starter, error) {
	c, err := openCloner()
	if err != nil {
		return nil, err
	}
	s := &Starter{cloner: c}
	s.reserve.cloner, s.reserve.shape = c, newShape(&spec.Process{}, identity{}, 0)
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
		s.reserve.close()
		s.endThreads()
		s.guard.Close()
		s.mounts.closeTable()
		s.closeDescriptors()
	})
}

// startGuard is a [guard.Starter].
func (s *Starter) startGuard(name string, socket int) (pid int, err error) {
	null := uintptr(s.null)
	return s.startSelf([]string{name}, &syscall.ProcAttr{
		Dir: "/", Env: helperEnv(), Files: []uintptr{null, null, null, uintptr(socket)},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
}
