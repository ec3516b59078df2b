// Package epoll waits for descriptors with epoll(7), and answers some of them on
// the spot: right after epoll_wait(2), on its thread, without a goroutine, a lock
// of the runtime or another thread in between.
//
//	loop, err := epoll.NewLoop()
//	id := loop.NewID()
//	err = loop.Control(unix.EPOLL_CTL_ADD, socket, id, unix.EPOLLIN|unix.EPOLLONESHOT)
//	r, err := epoll.NewFastPath(control, 'g')  // send this byte,
//	r.AddPath("/usr/bin/echo", inode)          // if that is there still
//	loop.ArmFastPath(r, id)
//	events, err := loop.Wait()                 // now and then it says that it did
//
// While a process sleeps so do the Go runtime's threads; to wake them all up, for a
// goroutine to be told by another one that it may run, takes 0.1 ms and more. A
// fast path is a list of a few system calls, made when the list was: nothing is
// allocated and nothing waits, neither for a disk nor for another machine. Where
// one of them answers anything but what is expected, nothing is done, and Wait says
// what is readable, at once.
//
// It does not decide anything: what is armed is what shall be done.
package epoll
