// Package budget divides the descriptors of this process among those whose clients
// cause them: connections that are carried, instances for a client each, flows of datagrams.
//
// RLIMIT_NOFILE is one number for all, and a client costs nothing. So a part of it is
// reserved for the activator's own work (sockets, sandboxes, pipes), and of the rest
// a share may have as much as it leaves to all others: half of it, if no other has
// any. A share that comes later finds something left, however greedy the others are, and none
// has to be known in advance.
package budget

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// least is what a share may have of the reserve, where nothing else is left.
const least = 8

// ErrNone says that a share is used up.
var ErrNone = fmt.Errorf("its clients have their share of the activator's descriptors, the others wait: raise the limit nofile of the activator (ulimit -n, LimitNOFILE= of a unit): %w", unix.EMFILE)

// all is what the shares have in common.
var all struct {
	mu      sync.Mutex
	taken   int
	own     int                // see Keep
	waiting map[*Share]waiting // see Await
}

// waiting is a share that has no room for n.
type waiting struct {
	n int
	f func()
}

// Share is what the clients of one service, or of one of its sockets, have taken. Its
// methods may be called from any goroutine.
type Share struct{ taken int }

// perService is how many descriptors a service needs that has started.
const perService = 8

// ReserveFor keeps for the activator what it has now, and what so many services will need.
func ReserveFor(services int) {
	open := 0
	if names, err := os.ReadDir("/proc/self/fd"); err == nil {
		open = len(names)
	}
	all.mu.Lock()
	_, reserve := readLimits()
	all.own = max(open-all.taken, 0) + max(perService*services-reserve, 0)
	all.mu.Unlock()
	wakeWaiting()
}

// LimitAhead is how many descriptors a service may have made before there are clients for them.
// They are in the reserve.
func LimitAhead() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	total, reserve := readLimits()
	return max((total+reserve)/64, 1)
}

// few is how many descriptors must be free in the beginning. With fewer not even the
// runtime has what it needs to wait for anything, and it ends with a dump.
const few = 5

// CheckLimit is an error where no work can begin under the limit.
func CheckLimit() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	free, open := 0, 0
	for n := uint64(0); n < limit.Cur; n++ {
		if _, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0); err == nil {
			open++
		} else if free++; free == few {
			return nil
		}
	}
	return fmt.Errorf("no more than %d descriptors are allowed here, %d are open already, and nothing works without %d more: raise the limit nofile of the activator (ulimit -n, LimitNOFILE= of a unit)", limit.Cur, open, few)
}

// Taken is what all shares have taken.
func Taken() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return all.taken
}

// readLimits is what clients may have in all, and what is reserved.
func readLimits() (total, reserve int) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, 0
	}
	most := int(min(limit.Cur, 1<<30))
	reserve = min(most/4, 1024)
	return max(most-reserve-all.own, 0), reserve
}

// roomLeft is [Share.Room], with all.mu.
func (s *Share) roomLeft() int {
	total, reserve := readLimits()
	x := (total - all.taken - s.taken) / 2 // taken + x <= total - all.taken - x
	return max(x, min(least-s.taken, total+reserve/2-all.taken), 0)
}

// Room is how many more it may take.
func (s *Share) Room() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return s.roomLeft()
}

// Taken is what it has.
func (s *Share) Taken() int {
	all.mu.Lock()
	defer all.mu.Unlock()
	return s.taken
}

// Take takes n, which are there already: the caller has asked for Room before.
func (s *Share) Take(n int) {
	all.mu.Lock()
	defer all.mu.Unlock()
	s.taken += n
	all.taken += n
}

// Give gives n back.
func (s *Share) Give(n int) {
	s.Take(-n)
	wakeWaiting()
}

// Close gives everything back, and ends its wait.
func (s *Share) Close() {
	all.mu.Lock()
	all.taken -= s.taken
	s.taken = 0
	delete(all.waiting, s)
	all.mu.Unlock()
	wakeWaiting()
}

// Await has f called once, when there is room for n. It may be called at once, by any
// goroutine, and must not block.
func (s *Share) Await(n int, f func()) {
	all.mu.Lock()
	if all.waiting == nil {
		all.waiting = make(map[*Share]waiting)
	}
	all.waiting[s] = waiting{n, f}
	all.mu.Unlock()
	wakeWaiting()
}

// wakeWaiting calls those that have room now.
func wakeWaiting() {
	all.mu.Lock()
	var due []func()
	for s, w := range all.waiting {
		if s.roomLeft() >= w.n {
			due = append(due, w.f)
			delete(all.waiting, s)
		}
	}
	all.mu.Unlock()
	for _, f := range due {
		f()
	}
}
