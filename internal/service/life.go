package service

import "time"

// life is a place in the table: a service's, or that of an instance with a client of its
// own. Whoever has one carries out the actions.
type life struct {
	state state
	until time.Time // when the state has lasted for too long; zero: it may last
}

// takeStep takes the step of the table that an event is, and returns what is to be done.
func (l *life) takeStep(e event) action {
	step := lookUp(l.state, e)
	l.state = step.next
	return step.action
}

// limit lets the state last d at most; 0 is for ever.
func (l *life) limit(d time.Duration) {
	l.until = time.Time{}
	if d > 0 {
		l.until = time.Now().Add(d)
	}
}

// isDue reports whether a time is over, and forgets it then.
func isDue(at *time.Time, now time.Time) bool {
	if at.IsZero() || now.Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// firstOf is the first of some times, of which zero is never.
func firstOf(times ...time.Time) (first time.Time) {
	for _, at := range times {
		if first.IsZero() || !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return first
}
