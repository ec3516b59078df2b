// Package usernotif answers system calls that a service's seccomp filter hands over
// instead of passing them to the kernel, see seccomp_unotify(2). These are connect, bind
// and listen of a service that may use its own network namespace, or paths of its own root,
// but must not turn outward what it inherited. They are also bind and listen of a service
// that gets sockets of the host's for the addresses that it binds; and setsockopt of what those who
// wait at a listener of the host's would inherit.
//
//	supervisor, err := usernotif.New(listener, usernotif.Policy{Netns: cookie, Targets: []usernotif.Target{
//		{Address: spec.Address{Network: spec.TCP4, Port: 80}, File: socket}}})
//	go supervisor.Run(ctx)
//	<-supervisor.Serving() // the service listens at port 80, which is our socket
//
// It acts on the descriptor and on the copy of the address that it took itself, never on
// what the program may have put in their place meanwhile. A call of which the kernel keeps
// the caller is made by a child with the service's ids. The package knows neither what
// installed the filter nor the name of the service.
package usernotif
