package supervise

import (
	"syscall"
	"testing"
	"time"
)

// A client whose sandbox stands waits for no goroutine: here the service's stands
// still as soon as it hears of him.
func TestReflexIsFirst(t *testing.T) {
	s := up(t, "once", warm)
	for range 5 {
		stood := s.pid("state=warm ")
		time.Sleep(20 * time.Millisecond) // the line comes before the reflex
		s.askAlone()
		if ran := s.pid("state=running"); ran != stood {
			t.Errorf("process %d ran, and %d stood", ran, stood)
		}
	}
}

// One that is gone before the client comes is replaced for him, whoever hears first.
func TestReflexOfTheDead(t *testing.T) {
	s := up(t, "once", warm)
	for range 10 {
		stood := s.pid("state=warm ")
		if err := syscall.Kill(stood, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.answered(s.ask())
	}
}

// What happens while the sandbox stands does not take its reflex away.
func TestReflexStays(t *testing.T) {
	s := up(t, "once", warm)
	s.pid("state=warm ")
	for range 3 {
		s.service.NodeTouched() // a look at the nodes, which are as they were
		time.Sleep(20 * time.Millisecond)
	}
	s.askAlone()
}

// askAlone is a client while the service's goroutine cannot take him in.
func (s *stand) askAlone() {
	s.t.Helper()
	s.turns.mu.Lock()
	defer s.turns.mu.Unlock()
	c := s.ask()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	s.answered(c)
}
