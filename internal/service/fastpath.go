package service

import "activator/internal/epoll"

// To have the service's goroutine run takes longer than all that it has to do for a
// client while a sandbox stands: compare what the sandbox was made of, and say go.
// So the watcher does that itself, and the goroutine hears of it afterwards. The
// fast path is armed only while the goroutine waits for what happens next, in the state
// warm; whatever happens then comes after the client, if there was one.

// makeFastPath makes the fast path of the sandbox that stands. Without one the service
// does what is to be done.
func (s *shared) makeFastPath() {
	r, err := s.run.handover.NewFastPath()
	if err != nil {
		s.log.Debug("no fast path: clients are served a little later", "err", err)
	}
	if r == nil {
		return
	}
	for _, f := range s.run.outputs {
		r.AddPath(f.path, epoll.InodeOf(f.info))
	}
	s.fastPath = r
}

func (s *shared) dropFastPath() {
	s.fastPath.Close()
	s.fastPath = nil
}

// armFastPath lets the watcher say go while nothing else happens.
func (s *shared) armFastPath() {
	if s.state != warm {
		s.dropFastPath()
	}
	if s.fastPath == nil {
		return
	}
	s.around.Watcher.ArmFastPath(s.fastPath, s.sockets, func() { wakeUp(s.woken) })
}

// disarmFastPath ends that. A client whom the watcher has let in came first.
func (s *shared) disarmFastPath() {
	if s.fastPath == nil {
		return
	}
	by, at, fired := s.around.Watcher.DisarmFastPath(s.fastPath, s.sockets)
	if fired {
		s.run.stage, s.run.started = stageReleased, at
		s.called(s.sockets[by])
	}
}
