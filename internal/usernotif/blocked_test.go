package usernotif

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/ktest"
)

const manyBlocked = 3 * mostBlocked

// connectAndWait connects so often to a listener that accepts nobody: its queue is full after two.
func connectAndWait(times int) error {
	l := stream(unix.AF_INET)
	if err := unix.Bind(l, loopback); err != nil {
		return err
	}
	if err := unix.Listen(l, 0); err != nil {
		return err
	}
	at, err := unix.Getsockname(l)
	if err != nil {
		return err
	}
	port := fmt.Sprint(at.(*unix.SockaddrInet4).Port)
	for range times {
		// A process, and no thread: the runtime makes those from one that the filter does not hold.
		_, err := syscall.ForkExec("/proc/self/exe", []string{"connects"}, &syscall.ProcAttr{
			Env: []string{"INTERCEPT_TEST_SERVICE=connects", "INTERCEPT_TEST_PORT=" + port}, Files: []uintptr{0, 1, 2},
			Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// connects is one of many that connect to a port, and wait.
func connects() {
	port, _ := strconv.Atoi(os.Getenv("INTERCEPT_TEST_PORT"))
	_ = unix.Connect(stream(unix.AF_INET), &unix.SockaddrInet4{Port: port, Addr: loopback.Addr})
	ktest.Hang()
}

// A call that waits for the network holds up neither other calls nor the end.
func TestBlockedCalls(t *testing.T) {
	s := supervise(t, t.Context(), Policy{IP: true, Unix: true})
	for _, name := range []string{"blocked", "own tcp", "own unix"} {
		if got := s.attempt(name); got != "ok" {
			t.Errorf("%s: %s", name, got)
		}
	}
	s.end()
}

// However many calls wait for the network, few of them have a descriptor of ours.
func TestBlockedCallsTakeFewDescriptors(t *testing.T) {
	s := supervise(t, t.Context(), Policy{IP: true, Unix: true})
	count := func() int {
		names, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	descriptors, calls := count(), runtime.NumGoroutine()
	if got := s.attempt("many blocked"); got != "ok" {
		t.Fatal(got)
	}
	for begin := time.Now(); runtime.NumGoroutine() < calls+manyBlocked-2; { // two are through
		if time.Since(begin) > time.Minute {
			t.Fatalf("%d calls wait", runtime.NumGoroutine()-calls)
		}
		runtime.Gosched()
	}
	if taken := count() - descriptors; taken > mostBlocked+2 {
		t.Errorf("%d calls that wait have %d descriptors of ours", manyBlocked, taken)
	}
	s.end()
}
