// Package behalf makes system calls on behalf of a process that is not trusted: with
// its ids and without our rights, so that others see the process and not us.
//
//	ids, err := behalf.IDsOf(pid)
//	err = ids.Do(func() error { return unix.Connect(fd, path) }) // what the process may not reach, this does not reach
//
//	place, err := behalf.OpenPlace(pid)
//	err = place.Listen(fd, backlog)      // SO_PEERCRED shows the process's ids
//	there, err := place.HasListener(fd)  // fd is connected to what a process of this place listens at
//	err = place.OpenRoot(pid)
//	err = place.Connect(fd, sockaddr)    // to a path of its root
//
// [IDs.Do] changes the calling thread for a moment. It is cheap, and it is for calls that the
// kernel judges by the ids of files. A [Place] sends a child: it is for calls of which the
// kernel keeps the caller. The service's processes can hold up that child for a while only.
package behalf
