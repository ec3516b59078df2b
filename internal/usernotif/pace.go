package usernotif

import (
	"context"
	"time"
)

// pace slows down a service that binds and listens without end. Each call costs us time, and
// the other services need the processors too. Only the service itself waits.
type pace struct {
	least, most time.Duration // how long a call waits that has to

	left  int           // calls before the next one has to wait
	since time.Time     // when left was counted
	every time.Duration // how long a call waits then, by what the last one cost us
}

const (
	paceBurst = 1000 // calls at once: more than programs with many addresses and workers make
	paceEvery = 2 * time.Millisecond
	paceShare = 4 // times as long as a call took the next one waits: a fifth of a processor at most
	paceMost  = 100 * time.Millisecond

	// Programs set options on each connection.
	optionEvery = 20 * time.Microsecond
	optionMost  = time.Millisecond
)

// noteCost notes how long a call took. That differs between hosts and between calls: a call
// that a child makes takes a hundred times as long as another.
func (p *pace) noteCost(took time.Duration) { p.every = min(paceShare*took, p.most) }

// waitForTurn lets one call through. It is false if ctx was done first.
func (p *pace) waitForTurn(ctx context.Context) bool {
	every := max(p.every, p.least)
	if p.left == 0 {
		now := time.Now()
		p.left = int(min(now.Sub(p.since)/every, paceBurst))
		p.since = now
	}
	if p.left > 0 {
		p.left--
		return true
	}
	timer := time.NewTimer(every)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
