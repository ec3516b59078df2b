package ktest

import "runtime"

// The first thread does not end with a goroutine that is locked to it, and is what /proc/self shows of all: it is kept for
// the main one, so that none can have it that moves its thread to other namespaces.
func init() { runtime.LockOSThread() }

// OnThread runs f on a thread of its own, which ends with it: f may move the thread to other namespaces.
func OnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked, so the thread ends
		f()
	}()
	<-done
}
