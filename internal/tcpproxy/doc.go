// Package tcpproxy carries streams between sockets that we listen on and a program
// that listens elsewhere, TCP and unix in every combination.
//
//	p, err := tcpproxy.New([]tcpproxy.Route{{Listener: socket, Dialer: inside}}, tcpproxy.Options{MaxConns: 256})
//	go p.Run(ctx)
//	defer p.Close()
//
// All connections of a proxy live in one goroutine with an epoll of its own,
// edge-triggered. It makes its system calls past the scheduler (RawSyscall: none of
// them blocks) and lets the runtime know only when it waits, so that it sleeps in
// epoll_wait(2) and wakes for nothing but an event; under load it looks for the next
// event for a moment before it sleeps. It costs a thread, and no memory
// for a connection but its two sockets and a hundred bytes. Small messages are
// copied through one buffer; a direction that moves bulk goes by splice(2) through
// a pipe from a small pool, and back.
//
// A half-close stays a half-close, and a reset a reset. What cannot be written waits
// in the kernel's queue of the side that it came from, but for one buffer.
//
// It knows nothing of namespaces: the [Dialer] makes the sockets to the program.
// Descriptors and credentials that clients send over unix sockets do not pass.
package tcpproxy
