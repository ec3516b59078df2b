// Package sockopt is the table of socket options: how each is set, what is restored when a
// service has had the socket, what follows a program to a socket of ours, and what a sealed
// service may set.
//
//	err := sockopt.SetOptions(fd, &socket, sockopt.Password{}) // what the configuration asks for
//	state := sockopt.RecordState(fd)            // before any service has the socket
//	changed, stuck := state.Restore(fd)         // after one has had it
//	sockopt.CarryOptions(theirs, ours, sealed)  // where ours takes the place of a program's own
//	for _, o := range sockopt.Table { ... }     // what a sealed service may set
//
// A new option is one row of [Table]. It makes no socket, and knows no service.
package sockopt
