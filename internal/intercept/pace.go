package intercept

import (
	"context"
	"time"
)

// pace slows a service down that binds and listens without end: each call is work
// of ours, and the processors are the other services' too. Only the service itself
// waits. The zero value is ready.
type pace struct {
	left  int       // calls before the next one has to wait
	since time.Time // when left was counted
}

const (
	paceBurst = 1000 // calls at once: more than programs with many addresses and workers make
	paceEvery = 2 * time.Millisecond
)

// wait lets one call through, and is false if ctx was done first.
func (p *pace) wait(ctx context.Context) bool {
	if p.left == 0 {
		now := time.Now()
		p.left = int(min(now.Sub(p.since)/paceEvery, paceBurst))
		p.since = now
	}
	if p.left > 0 {
		p.left--
		return true
	}
	timer := time.NewTimer(paceEvery)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
