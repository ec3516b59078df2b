package daemon

import (
	"runtime"
	"syscall"
)

// warmAtOnce is how many sandboxes are built at a time while no client waits for them: child and
// activator have a processor each meanwhile.
func warmAtOnce() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// warmDescriptors is how many of our descriptors a warm sandbox takes: the control socket, twice,
// a pidfd, two pipes, the notification socket, a filter's listener, the table of mounts, and some
// while it is being built.
const warmDescriptors = 10

// warmMost bounds the warm sandboxes. Each takes 3 MiB of memory and a seccomp filter, and all of
// them end at once when we are killed (see [service.Slots]).
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
