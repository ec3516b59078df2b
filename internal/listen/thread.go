package listen

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// withoutUmask calls f on a thread of its own with a umask of 0, so that files
// have their mode from birth. The umask belongs to what CLONE_FS shares, so the
// rest of the process keeps its own. f starts no child. Where unshare is forbidden f runs with
// our umask: nodes are born narrower then, and widened a moment later.
func withoutUmask(f func()) {
	_ = callOnThread(func() error {
		if unix.Unshare(unix.CLONE_FS) == nil {
			unix.Umask(0)
		}
		f()
		return nil
	})
}

// callOnThread calls f on a thread of its own, which is thrown away. f starts no child from
// it (Pdeathsig would fire). It is never the first thread, which does not end, and which is what /proc/self shows.
func callOnThread(f func() error) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			err = callOnThread(f) // on another one: this one waits for it
			runtime.UnlockOSThread()
			return
		}
		err = f()
	}()
	<-done
	return err
}
