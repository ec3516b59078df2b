// Package netns makes sockets in the network namespace of a process that we
// started, and connects them to what it listens at there.
//
//	room, err := netns.Open(pid)
//	defer room.Close()
//	err = room.Identify(pid) // for unix sockets
//	door := room.Door(spec.Address{Network: spec.TCP, Port: 80}, netns.Options{Prepare: proxy.Prepare, OwnAddress: true})
//	if listens, err := door.Look(); listens {
//		fd, err := door.Dial(client)
//	}
//
// Of datagrams [Room.Bound] finds what the program has bound and how much it has not
// read yet, and makes the sockets to send from.
//
// Nobody stays inside for it: a child that shares our memory and our descriptors,
// and runs no Go, enters the namespaces, makes a handful of sockets, and is gone
// after some ten microseconds. It needs no privilege, since whoever made a user
// namespace has every capability in it, user_namespaces(7).
//
// It never tries a connect to find out whether somebody listens: it asks the
// kernel, sock_diag(7).
package netns
