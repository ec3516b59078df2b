package listen

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// reopenTimeout is how long an address may still be held by what an activator left
// that was killed: its services get their parent-death signal when it is gone,
// and are gone themselves some milliseconds later.
var reopenTimeout = time.Second

// retryFor repeats try until it says done, ever more seldom: a try that looks for the
// holder reads all of /proc. It waits for limit in all, and a try that takes long on a
// busy machine takes nothing of that: the second one always comes, unless ctx is done. Nothing tells of the
// events it waits for, a lock given back, a port that becomes free.
func retryFor(ctx context.Context, limit time.Duration, try func() (done bool)) {
	pause := 3 * time.Millisecond
	for waited := time.Duration(0); !try() && waited < limit; waited += pause {
		pause = min(2*pause, 200*time.Millisecond)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// isHeld reports an error that goes by itself if the holder is on its way out. A
// file that is no socket is not.
func isHeld(err error) bool {
	var occupied *OccupiedError
	if errors.As(err, &occupied) {
		return occupied.Live
	}
	return errors.Is(err, unix.EADDRINUSE)
}
