package ktest

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// OnThread runs f on a thread of its own, which ends with it: f may move the thread to other namespaces. It is never the
// first thread, which does not end, and which is what /proc/self shows of all.
func OnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends
		if unix.Gettid() == unix.Getpid() {
			OnThread(f) // on another one: this one waits for it
			runtime.UnlockOSThread()
			return
		}
		f()
	}()
	<-done
}
