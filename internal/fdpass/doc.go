// Package fdpass speaks the LISTEN_FDS protocol of sd_listen_fds(3), both ends
// of it, and passes descriptors over unix sockets (SCM_RIGHTS).
//
//	env, err := fdpass.MakeEnviron([]string{"http", "https"}, pid, pidfd) // before the exec
//	sockets, err := fdpass.ReceiveInherited()                            // in the program
//
// It knows nothing of processes: the sender's half makes environment entries,
// the receiver's half reads its own environment. Which descriptor stands at
// which number is the sender's own work.
package fdpass
