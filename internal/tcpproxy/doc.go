// Package tcpproxy carries streams between sockets that we listen on and a program
// that listens elsewhere, TCP and unix in every combination.
//
//	p, err := tcpproxy.New([]tcpproxy.Route{{Listener: socket, Dialer: inside}}, tcpproxy.Options{MaxConns: 256})
//	go p.Run(ctx)
//	defer p.Close()
//
// One goroutine has all connections of a proxy, with an edge-triggered epoll of its own.
// It makes its system calls past the scheduler (RawSyscall: none of them blocks), and tells
// the runtime only when it waits. So it sleeps in epoll_wait(2) and only an event wakes it.
// Under load it looks for the next event for a moment before it sleeps. It costs one thread;
// a connection costs two sockets and a hundred bytes. Small messages are copied through one
// buffer. A direction that moves bulk uses splice(2) and a pipe from a small pool.
//
// A half-close stays a half-close, and a reset a reset. Data that cannot be written waits in
// the kernel's queue of its sender, but for one buffer.
//
// The package knows nothing of namespaces: the [Dialer] makes the sockets to the program.
// Descriptors and credentials that clients send over unix sockets are not carried.
package tcpproxy
