// Package fdpass speaks the LISTEN_FDS protocol of sd_listen_fds(3), both ends
// of it, and passes descriptors over unix sockets (SCM_RIGHTS).
//
// It knows nothing of processes: the sender's half makes environment entries,
// the receiver's half reads its own environment.
package fdpass
