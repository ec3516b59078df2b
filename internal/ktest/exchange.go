package ktest

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Exchange exchanges two names over and over, as an intruder does to race a walk to one
// of them, until the function it returns is called.
func Exchange(t *testing.T, a, b string) (stop func()) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for range 10_000_000 { // bounded, if nobody calls
			select {
			case <-quit:
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
			runtime.Gosched()
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}
