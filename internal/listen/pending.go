package listen

import (
	"fmt"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/sockopt"
)

// Client is one client that waits in a socket's queue: a plain value that is
// the same for as long as that client waits.
type Client string

// PendingClients holds the clients that were accepted for a run of the service that ended before
// the program had anything of them: the next run serves them first. It is a
// [tcpproxy.Pending]; its methods may be called from any goroutine.
type PendingClients struct {
	mu      sync.Mutex
	clients []pendingClient
	count   int // of all there were
	closed  bool
}

type pendingClient struct {
	fd   int
	said []byte // read from it already
	id   Client
}

// Put takes fd, a connection, and said, what was read from it.
func (a *PendingClients) Put(fd int, said []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		resetConnection(fd)
		return
	}
	a.count++
	a.clients = append(a.clients, pendingClient{fd, said, Client(fmt.Sprint("accepted ", a.count))})
}

// Take returns the one that has waited longest; without ok there is none.
func (a *PendingClients) Take() (fd int, said []byte, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.clients) == 0 {
		return -1, nil, false
	}
	c := a.clients[0]
	a.clients = a.clients[1:]
	return c.fd, c.said, true
}

// Any reports whether there is one.
func (a *PendingClients) Any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.clients) > 0
}

// listClients lists them.
func (a *PendingClients) listClients() (all []Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.clients {
		all = append(all, c.id)
	}
	return all
}

// refuseOldest turns away those that have waited longest, at most most, and returns how many.
func (a *PendingClients) refuseOldest(most int) (refused int) {
	for ; refused < most; refused++ {
		fd, _, ok := a.Take()
		if !ok {
			break
		}
		resetConnection(fd)
	}
	return refused
}

// RefuseAll turns all of them away, and returns how many.
func (a *PendingClients) RefuseAll() int { return a.refuseOldest(math.MaxInt) }

func (a *PendingClients) close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.RefuseAll()
}

// resetConnection closes a connection so that its client sees no end of an answer: with a reset,
// where there is one.
func resetConnection(fd int) {
	_ = sockopt.ResetOnClose(fd)
	_ = unix.Close(fd)
}
