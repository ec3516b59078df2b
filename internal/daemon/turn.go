package daemon

import (
	"sync"
	"time"
)

// Linux 6.18 stands still for good when about a thousand seccomp filters die at
// once, as those of a thousand services may that are told to end together.
const (
	endAtOnce = 64
	endPause  = 100 * time.Millisecond
)

// endInTurn tells services to end, side by side up to endAtOnce: the turn of the
// next comes when one is gone, or has taken endPause. Slow ones so hold up nobody
// for long, and those that are killed in the end, at their stop_timeout, are
// killed as far apart as they were told. It returns when all have been told and
// nobody's turn is left; done says who is gone.
func endInTurn(members []*member) {
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
