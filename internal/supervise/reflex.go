package supervise

import (
	"slices"

	"activator/internal/listen"
	"activator/internal/reflex"
)

// To have the service's goroutine run takes longer than all that it has to do for a
// client while a sandbox stands: compare what the sandbox was made of, and say go.
// So the watcher does that itself, and the goroutine hears of it afterwards. The
// reflex is armed only while the goroutine waits for what happens next, in the state
// warm; whatever happens then comes after the client, if there was one.

// makeReflex makes the reflex of the sandbox that stands. Without one the service
// does what is to be done.
func (s *Service) makeReflex() {
	if slices.ContainsFunc(s.sockets, func(socket *listen.Socket) bool { return !socket.AdmitsNothing() }) {
		return // it takes memory of the kernel's
	}
	r, err := s.process.stands.Reflex()
	if err != nil {
		s.log.Debug("no reflex: clients are served a little later", "err", err)
	}
	if r == nil {
		return
	}
	for _, f := range s.process.outputs {
		r.Same(f.path, reflex.InodeOf(f.info))
	}
	s.reflex = r
}

func (s *Service) dropReflex() {
	s.reflex.Close()
	s.reflex = nil
}

// arm lets the watcher say go while nothing else happens.
func (s *Service) arm() {
	if s.state != warm {
		s.dropReflex()
	}
	if s.reflex == nil {
		return
	}
	s.around.Watcher.Arm(s.reflex, s.sockets, func() {
		select {
		case s.gone <- struct{}{}:
		default: // it is to look already
		}
	})
}

// disarm ends that. A client whom the watcher has let in came first.
func (s *Service) disarm() {
	if s.reflex == nil {
		return
	}
	by, at, fired := s.around.Watcher.Disarm(s.reflex, s.sockets)
	if fired {
		s.process.went = at
		s.called(s.sockets[by])
	}
}
