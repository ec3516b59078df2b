// Package usernotif answers system calls of a service that its seccomp filter
// hands over instead of passing them to the kernel, see seccomp_unotify(2):
// connect, bind and listen of a service that may use its own network namespace,
// or paths of its own root, but must not turn what it inherited outward; and bind
// and listen of one that gets sockets of the host's for the addresses it binds.
//
//	supervisor, err := usernotif.New(listener, usernotif.Policy{Netns: cookie, Targets: []usernotif.Target{
//		{Address: spec.Address{Network: spec.TCP4, Port: 80}, File: socket}}})
//	go supervisor.Run(ctx)
//	<-supervisor.Serving() // the service listens at port 80, which is our socket
//
// It acts on the descriptor and the copy of the address that it took itself,
// never on what the program may have put in their place meanwhile; and what the kernel
// remembers of who has called, it has called by a child with the service's ids. It knows
// neither who installed the filter nor what the service is called.
package usernotif
