package daemon

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

// warmAtOnce is how many sandboxes are built at a time while no client waits for them: child and
// activator have a processor each meanwhile.
func warmAtOnce() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// warmDescriptors is how many of our descriptors a warm sandbox takes: the control socket, twice,
// a pidfd, two pipes, the notification socket, a filter's listener, the table of mounts, and some
// while it is being built.
const warmDescriptors = 10

// warmMost bounds the warm sandboxes. Each takes 3 MiB of memory and a seccomp filter, and all of
// them end at once when we are killed (see endAtOnce).
const warmMost = 128

// warmRoom is how many warm sandboxes there may be: they leave half of our descriptors to sockets,
// starts and relays.
func warmRoom() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur/2/warmDescriptors, warmMost))
}

// Linux 6.18 hangs for good when about a thousand seccomp filters end at once, as those of a
// thousand services can that end together.
const (
	endAtOnce = 64
	endPause  = 100 * time.Millisecond
)

// endStaggered tells services to end, at most endAtOnce at a time. The next one is told when one of
// them is gone, or has taken endPause. So slow services delay the others only for a moment, and
// services that are killed at their stop_timeout are killed as far apart as they were told. It
// returns when all have been told, and each is gone or has had its endPause. The channel done of a
// member says whether it is gone.
func endStaggered(members []*member) {
	slots := make(chan struct{}, endAtOnce)
	var ending sync.WaitGroup
	for _, m := range members {
		slots <- struct{}{}
		m.stop()
		ending.Go(func() {
			select {
			case <-m.done:
			case <-time.After(endPause):
			}
			<-slots
		})
	}
	ending.Wait()
}
