package service

import (
	"slices"
	"sync"
	"time"

	"activator/internal/advice"
	"activator/internal/process"
	"activator/internal/spec"
)

// earlyEnd is how long a program that fails must have run to be taken for one that works: what it
// lacks it would have missed before.
const earlyEnd = 10 * time.Second

// endedEarly reports whether a program has failed so soon that it does not work at all, mostly.
func (p *run) endedEarly() bool {
	return p.failed && p.stage >= stageRunning && (p.stage < stageUp || time.Since(p.started) < earlyEnd)
}

// noteFailure has the next program observed after one that has ended early, and tells a hint. A start that fails while it is
// observed is the last one that is: where a filter of others has a listener there is no second one. Nothing depends on that.
func (s *Service) noteFailure(r report, early bool) {
	if r.failed != nil {
		s.observe, s.unobservable = false, s.unobservable || r.of.observed != spec.Unobserved
		return
	}
	if early {
		s.observe = !s.unobservable
		s.hintAt(r)
	}
}

// mostLines is how many of the last lines of a program may say why it has failed.
const mostLines = 5

// hintAt says, once, what to write for a program that has ended early, if its last words tell what it lacks. What it
// was refused by the filter is told of the next run, which is observed.
func (s *Service) hintAt(r report) {
	lines := append(slices.Clone(r.lines[max(0, len(r.lines)-mostLines):]), r.words)
	for _, line := range slices.Backward(lines) {
		if hint := advice.ReadLine(line, s.has); hint != "" {
			s.hint(r.of.pid(), "has failed, maybe since "+hint)
			return
		}
	}
}

// hints are what the log has been told of the programs of a service. Any goroutine may ask.
type hints struct {
	mu   sync.Mutex
	told map[string]bool
}

// mostHints bounds them: a program may have a new name in each of its errors.
const mostHints = 16

// isNew reports whether a hint is to be told, which it is once.
func (h *hints) isNew(text string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.told[text] || len(h.told) == mostHints {
		return false
	}
	if h.told == nil {
		h.told = map[string]bool{}
	}
	h.told[text] = true
	return true
}

// tell tells of what a program lacks, once. Any goroutine may call it.
func (s *Service) tell(pid int, f spec.Finding) {
	if s.around.Trial != nil {
		s.around.Trial.Found(f)
	}
	s.hint(pid, f.Text)
}

// hint logs a hint, once.
func (s *Service) hint(pid int, text string) {
	if text != "" && s.hinted.isNew(text) {
		s.log.Warn("program "+text, "pid", pid)
	}
}

// has reports whether a path lies in what the service has already: a directory of its own, or a mount, whose mode and owner
// are somebody else's affair; writable: in what it may write, as far as the configuration goes.
func (s *Service) has(at string, writable bool) bool {
	mounts := slices.Clone(s.spec.Sandbox.Writable)
	if !writable {
		mounts = append(mounts, s.spec.Sandbox.ReadOnly...)
	}
	for _, d := range s.spec.Directories {
		if own := process.DirectoryPath(d); own != "" {
			mounts = append(mounts, spec.Mount{Inside: own})
		}
	}
	return slices.ContainsFunc(mounts, func(m spec.Mount) bool { return spec.IsBelow(at, m.Inside) })
}
