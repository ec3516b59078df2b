// Package netns makes sockets in other network namespaces and control groups, and looks at
// what is there.
//
// For a program that we started, in its own network:
//
//	program, err := netns.OpenProgram(pid)
//	defer program.Close()
//	err = program.ReadIdentity(pid) // for unix sockets
//	target := program.NewTarget(spec.Address{Network: spec.TCP, Port: 80}, netns.Options{Prepare: tcpproxy.PrepareSocket, OwnAddress: true})
//	if listens, err := target.FindSockets(); listens {
//		fd, err := target.Dial(client)
//	}
//
// For datagrams [Program.NewBound] finds the sockets that the program has bound, tells how
// much the program has not read yet, and makes the sockets to send from.
//
// For a relay, in a network namespace that lives by its sockets:
//
//	var owner netns.Owner
//	socket, flows, err := owner.NewNetwork(unix.AF_INET, []int{unix.AF_INET})
//	more, err := netns.MakeFlows(socket, unix.AF_INET, 8)
//
// For the programs of a control group: [MakeSocketsInGroup].
//
// No process stays there. A child shares our memory and our descriptors and runs no
// Go. It enters the namespaces, makes a handful of sockets, and is gone after some ten
// microseconds. It needs no privilege: the user that made a user namespace has every
// capability in it, user_namespaces(7).
//
// The package never tries a connect to find out whether the program listens. It asks
// the kernel, sock_diag(7).
package netns
