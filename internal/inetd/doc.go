// Package inetd runs a service with one instance of its program for each client:
// it accepts, and starts a sandbox of its own for every connection, as inetd and
// systemd's Accept=yes do.
//
// A client is accepted only when a sandbox stands ready for it and a place is
// free: until then it waits in the socket's queue. What it does not do: relay, or
// look into what client and program say.
package inetd
