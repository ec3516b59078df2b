package daemon

import (
	"runtime"
	"sync"
	"syscall"
	"time"
)

// warmAtOnce is how many sandboxes are built at a time while nobody waits for
// them: the child and we have a processor each meanwhile.
func warmAtOnce() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// warmDescriptors is how many descriptors of ours a sandbox that stands takes: the
// control socket, twice, a pidfd, two pipes, the notification socket, a filter's
// listener, the table of mounts, and some for the time it is being built.
const warmDescriptors = 10

// warmMost bounds what sandboxes that stand take: 3 MiB of memory each, and a seccomp
// filter, all of which die at once when we are killed (see endAtOnce).
const warmMost = 128

// warmRoom is how many sandboxes may stand: they leave half of our descriptors to
// sockets, starts and relays.
func warmRoom() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur/2/warmDescriptors, warmMost))
}

// Linux 6.18 stands still for good when about a thousand seccomp filters die at
// once, as those of a thousand services may that are told to end together.
const (
	endAtOnce = 64
	endPause  = 100 * time.Millisecond
)

// endStaggered tells services to end, side by side up to endAtOnce: the turn of the
// next comes when one is gone, or has taken endPause. Slow ones so hold up nobody
// for long, and those that are killed in the end, at their stop_timeout, are
// killed as far apart as they were told. It returns when all have been told and
// nobody's turn is left; done says who is gone.
func endStaggered(members []*member) {
	turns := make(chan struct{}, endAtOnce)
	var ending sync.WaitGroup
	for _, m := range members {
		turns <- struct{}{}
		m.stop()
		ending.Go(func() {
			select {
			case <-m.done:
			case <-time.After(endPause):
			}
			<-turns
		})
	}
	ending.Wait()
}
