package epoll

import (
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// When a loop is under load, and what it does then.
const (
	briefSleep = 500 * time.Microsecond
	loaded     = 16 // brief sleeps
	longSleep  = 8  // brief sleeps that a long one outweighs: a few messages now and then are no load
	lookFor    = 100 * time.Microsecond
	wanted     = 30 * time.Microsecond // a look that takes so long has given the processor to others
	mostLosses = 9                     // doublings of the time without a look that follow
	saves      = 10 * time.Microsecond // what a look that finds something is worth: a sleep and a wake-up less
	mostSaved  = 5 * time.Millisecond
	pays       = 256 // looks that have found something and halve the next time without one
)

// Waiter waits for the events of an epoll that one goroutine has to itself: one that carries what clients send,
// for whom a wake-up by the scheduler would take longer than all the rest. It sleeps in epoll_wait(2)
// itself.
type Waiter struct {
	Epoll int32
	load  int // up by each brief sleep, down by longSleep for any other; far below 0 after a look that was lost

	saved  time.Duration // by looks, less what looks have cost that gave the processor away
	losses int           // how often they have cost more, for which found has not made up
	found  int           // looks that have found something
}

// Wait fills events and returns how many there are. If there is none it asks timeout how long it may sleep, in
// milliseconds: 0: not at all, -1: for ever. It tells the scheduler only if it sleeps.
func (w *Waiter) Wait(events []unix.EpollEvent, timeout func() int) (int, unix.Errno) {
	n, e := w.Look(events)
	if n > 0 || e != 0 {
		return n, e
	}
	limit := timeout()
	if limit == 0 {
		return 0, 0
	}
	if w.load >= loaded {
		if n, e = w.spin(events); n > 0 || e != 0 {
			return n, e
		}
	}
	began := time.Now()
	n, e = w.sleep(events, limit)
	if time.Since(began) < briefSleep {
		w.load = min(w.load+1, 2*loaded)
	} else if w.load > 0 {
		w.load = max(w.load-longSleep, 0)
	}
	return n, e
}

// Look fills events with those that there are.
func (w *Waiter) Look(events []unix.EpollEvent) (int, unix.Errno) { return w.waitHere(events, 0) }

// dozing is how many loops sleep without the scheduler knowing.
var dozing atomic.Int32

// sleep waits for events. Under load it does not tell the scheduler: its monitor would
// look every 20 us and take the processor from us. That lasts for a moment only, and never do
// all processors sleep so.
func (w *Waiter) sleep(events []unix.EpollEvent, timeout int) (int, unix.Errno) {
	if w.load < loaded {
		return w.wait(events, timeout)
	}
	defer dozing.Add(-1)
	if dozing.Add(1) >= int32(runtime.GOMAXPROCS(0)) {
		return w.wait(events, timeout)
	}
	if uint(timeout) > 1 { // also -1
		timeout = 1
	}
	return w.waitHere(events, timeout)
}

// spin looks for events for a moment. Under load the next event comes sooner than a
// sleep and a wake-up from another processor would take. Another thread that wants this processor
// gets it, and may keep it for milliseconds: the kernel prefers a thread that slept to one that yields.
// Where that costs more than spinning saves, there is none for a while, for longer each time.
func (w *Waiter) spin(events []unix.EpollEvent) (n int, e unix.Errno) {
	began := time.Now()
	for last := time.Duration(0); n == 0 && e == 0; {
		yieldProcessor()
		n, e = w.Look(events)
		now := time.Since(began)
		if now-last > wanted {
			w.noteLoss(now - last)
			break
		}
		if last = now; now >= lookFor {
			break
		}
	}
	if n > 0 {
		w.saved = min(w.saved+saves, mostSaved)
		if w.found++; w.found%pays == 0 {
			w.losses = max(w.losses-1, 0)
		}
	}
	return n, e
}

// noteLoss notes a look that gave the processor away for so long.
func (w *Waiter) noteLoss(took time.Duration) {
	if w.saved -= took; w.saved >= 0 {
		w.load = max(w.load-longSleep, 0)
		return
	}
	w.saved = 0
	w.losses = min(w.losses+1, mostLosses)
	w.load = -loaded << w.losses
}

// wait is epoll_wait(2), whose number not every architecture has. Other goroutines may run
// meanwhile. timeout: milliseconds, -1 for ever.
func (w *Waiter) wait(events []unix.EpollEvent, timeout int) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.Epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(timeout), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// waitHere is wait, but no other goroutine gets the processor meanwhile.
func (w *Waiter) waitHere(events []unix.EpollEvent, timeout int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(w.Epoll), uintptr(unsafe.Pointer(unsafe.SliceData(events))),
		uintptr(len(events)), uintptr(timeout), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// yieldProcessor is sched_yield(2).
func yieldProcessor() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }
