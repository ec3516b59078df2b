package service

import (
	"io"
	"syscall"
	"testing"
	"time"
)

// A client whose sandbox stands waits for no goroutine: here the service's stands
// still as soon as it hears of him. A look at the nodes in between changes nothing.
func TestFastPathIsFirst(t *testing.T) {
	s := up(t, "once", warmed)
	for range 20 {
		stood := s.pid("state=warm ")
		s.service.NodeTouched()
		time.Sleep(20 * time.Millisecond) // the line comes before the fast path
		alone := s.askAlone()
		ran := s.pid("state=running")
		if alone && ran == stood {
			return
		}
		t.Log("not this time: somebody may have mounted something on the host")
	}
	t.Error("clients wait for the service's goroutine")
}

// askAlone is a client while the service's goroutine cannot take him in. It reports
// whether he was answered then, and not only afterwards.
func (s *stand) askAlone() bool {
	s.t.Helper()
	s.slots.mu.Lock()
	c := s.ask()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	text, err := io.ReadAll(c)
	s.slots.mu.Unlock()
	if err == nil && string(text) == "pid 1\n" {
		return true
	}
	_ = c.SetReadDeadline(time.Time{})
	s.answered(c)
	return false
}

// One that is gone before the client comes is replaced for him, whoever hears first.
func TestFastPathOfTheDead(t *testing.T) {
	s := up(t, "once", warmed)
	for range 10 {
		stood := s.pid("state=warm ")
		if err := syscall.Kill(stood, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.answered(s.ask())
	}
}
