package service

import (
	"time"

	"activator/internal/spec"
)

// burst is how many quick, clean runs may follow each other without a rest.
const burst = 5

// freeVain is how many vain runs in a row are no failures: a program that goes to the background is told so after the first
// of them, and has a parent in the next run.
const freeVain = 2

// goodFactor is how many times longer than the rest before it a run must last
// for the failures before it to be forgotten: a service is then never away for
// more than about a tenth of the time.
const goodFactor = 10

// history is what the starts so far have earned. It is a plain value; the rest
// it gives is a pure function of it and of the run that has just ended.
type history struct {
	failures int           // in a row
	last     time.Duration // the rest after the last of them
	due      time.Time     // when the allowance of clean runs is whole again
	vain     int           // vain runs in a row
}

// countVain counts a run, and reports whether it is a failure for that it was in vain once more: it has ended well at once,
// and has taken no client while some waited. Another such run would do no better.
func (h *history) countVain(vain bool) (failed bool) {
	if !vain {
		h.vain = 0
		return false
	}
	h.vain++
	return h.vain > freeVain
}

// rest returns how long to rest after a run that ended at now, and the history
// with that run in it. A failure doubles the delay. A clean end (exit 0) never
// does, but is counted: a service that ends well without having accepted anybody
// would start as often as the processor lets it. So burst clean runs are free,
// and after them one more each RestartDelay.
func (h history) rest(l spec.Timeouts, ran time.Duration, failed bool, now time.Time) (history, time.Duration) {
	if ran >= goodFactor*max(h.last, l.RestartDelay) {
		h.failures, h.last = 0, 0
	}
	if failed {
		h.failures++
		h.last = doubleDelay(l.RestartDelay, h.failures-1, l.RestartMaxDelay)
		return h, h.last
	}
	h.failures, h.last = 0, 0
	if h.due.Before(now) {
		h.due = now
	}
	h.due = h.due.Add(l.RestartDelay)
	return h, max(0, h.due.Sub(now)-burst*l.RestartDelay)
}

// doubleDelay is d * 2^times, at most bound.
func doubleDelay(d time.Duration, times int, bound time.Duration) time.Duration {
	for ; times > 0 && 0 < d && d < bound; times-- {
		if d > bound/2 {
			return bound
		}
		d *= 2
	}
	return min(d, bound)
}
