// Command echo is a service to activate: it answers on every kind of socket it
// inherits with what it was sent, and needs no network, no file and no
// privilege of its own.
//
//	[service]
//	exec = ["../bin/echo", "--debug"]
//
// Streams are echoed until the client ends its side and everything is sent
// back; datagrams and records one by one; what arrives in a FIFO goes to
// standard output. It does not bind sockets: without LISTEN_FDS it ends.
package main
