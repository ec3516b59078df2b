package service

import (
	"syscall"
	"time"

	"activator/internal/notify"
	"activator/internal/spec"
)

// watchdog knows whether a program says that it is alive, WATCHDOG=1 of sd_notify(3), as often as it
// should. It is watched while the service runs: the one time of it is the only thing that wakes the
// service up.
type watchdog struct {
	every time.Duration // how long the program may be silent; 0: for ever
	due   time.Time     // when it has been silent for so long; zero: it is not watched
	late  bool          // that was put off once
}

// lastWord is how much longer a word may be on its way to us, when we have not been let run for long.
const lastWord = 2 * chatterPause

// hear begins the time anew.
func (w *watchdog) hear(now time.Time) {
	w.due, w.late = time.Time{}, false
	if w.every > 0 {
		w.due = now.Add(w.every)
	}
}

// change changes how long the program may be silent.
func (w *watchdog) change(every time.Duration) {
	if every > 0 {
		every = max(every, spec.ShortestWatchdog)
	}
	w.every = every
}

// isMissed reports whether the program has been silent for too long.
func (w *watchdog) isMissed(now time.Time) bool {
	if !isDue(&w.due, now) {
		return false
	}
	if !w.late {
		w.late, w.due = true, now.Add(lastWord)
		return false
	}
	return true
}

// watchProgram ends a program that has not said for too long that it is alive, and returns when to
// look again.
func (s *shared) watchProgram() (until time.Time) {
	if s.state != running || s.run == nil {
		return time.Time{}
	}
	w := &s.run.watchdog
	if w.isMissed(time.Now()) {
		s.log.Warn("service hangs: it has not sent WATCHDOG=1 in time", "pid", s.run.pid(), "watchdog", w.every)
		s.handle(onMissed)
		return time.Time{}
	}
	return firstOf(w.due, s.lookAtDeaf())
}

// abortRun tells a program that hangs to end. Many say by SIGABRT what they were about; an engine
// does so of itself, instead of its container.
func (s *shared) abortRun() {
	s.limit(s.spec.StopTimeout)
	signal := syscall.SIGABRT
	if s.around.Engine != nil {
		signal = s.spec.StopSignal
	}
	if err := s.run.abort(signal); err != nil {
		s.log.Error("service not signalled", "pid", s.run.pid(), "err", err)
	}
}

// noteLife takes in what the program says of its watchdog.
func (s *shared) noteLife(m notify.Message) {
	w := &s.run.watchdog
	if m.HasWatchdog {
		w.change(m.Watchdog)
	}
	if (m.Alive || m.HasWatchdog) && s.state == running {
		w.hear(time.Now())
	}
	if m.Trigger && (s.state == running || s.state == starting) {
		s.log.Warn("service hangs, by its own word: WATCHDOG=trigger", "pid", s.run.pid())
		s.handle(onMissed)
	}
}
