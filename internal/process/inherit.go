package process

import "golang.org/x/sys/unix"

// CloseInherited keeps descriptors that this process was started with, and that
// nobody told it about, from going on to its children: it is to be called before
// anything else is opened. An error of close_range(2) says that the kernel is
// older than 5.11; the first child, which does the same, then says so.
func CloseInherited() {
	_ = unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
}
