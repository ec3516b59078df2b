// Package netns makes sockets in other network namespaces and control groups, and looks at
// what is there.
//
// For a program that we started, in its own network:
//
//	program, err := netns.Open(pid)
//	defer program.Close()
//	err = program.Identify(pid) // for unix sockets
//	target := program.Target(spec.Address{Network: spec.TCP, Port: 80}, netns.Options{Prepare: proxy.Prepare, OwnAddress: true})
//	if listens, err := target.FindSockets(); listens {
//		fd, err := target.Dial(client)
//	}
//
// Of datagrams [Program.Bound] finds what the program has bound and how much it has not
// read yet, and makes the sockets to send from.
//
// For a relay, in a network namespace that lives by its sockets:
//
//	var owner netns.Owner
//	socket, flows, err := owner.New(unix.AF_INET, []int{unix.AF_INET})
//	more, err := netns.Flows(socket, unix.AF_INET, 8)
//
// For the programs of a control group: [SocketsInGroup].
//
// Nobody stays there for it: a child that shares our memory and our descriptors,
// and runs no Go, enters the namespaces, makes a handful of sockets, and is gone
// after some ten microseconds. It needs no privilege, since whoever made a user
// namespace has every capability in it, user_namespaces(7).
//
// It never tries a connect to find out whether somebody listens: it asks the
// kernel, sock_diag(7).
package netns
