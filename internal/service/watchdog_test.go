package service

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"activator/internal/notify"
	"activator/internal/spec"
)

// announcesLife is a program that says so many times that it is alive, as often as it is asked to. It
// reports whether it has been asked as in sd_watchdog_enabled(3).
func announcesLife(times int) bool {
	usec, err := strconv.Atoi(os.Getenv("WATCHDOG_USEC"))
	if err != nil || os.Getenv("WATCHDOG_PID") != strconv.Itoa(os.Getpid()) {
		return false
	}
	beat := time.NewTicker(time.Duration(usec) * time.Microsecond / 2)
	defer beat.Stop()
	for range times {
		if notify.SendState("WATCHDOG=1") != nil {
			return false
		}
		<-beat.C
	}
	return true
}

// A program that says that it is alive goes on, and one that has stopped saying so is ended, and rests.
func TestWatchdog(t *testing.T) {
	for _, init := range []bool{false, true} {
		t.Run(fmt.Sprint("init ", init), func(t *testing.T) {
			t.Parallel()
			const every = 2 * time.Second // and so a second that the machine has no time for us is no miss
			s := up(t, "alive", func(service *spec.Service) { service.Watchdog, service.Sandbox.Init = every, init })
			c := s.ask()
			defer c.Close()
			s.await("state=running")
			begin := time.Now()
			s.await("service hangs", "watchdog=2s")
			if alive := time.Since(begin); alive < 2*every {
				t.Errorf("ended after %v, though it said for so long that it is alive", alive)
			}
			s.await("state=stopping")
			s.await("state=resting", "exit=", "for=")
		})
	}
}

// However a program ends that has hung, it has failed.
func TestWatchdogIsAFailure(t *testing.T) {
	s := up(t, "abort well", func(service *spec.Service) { service.Watchdog = spec.ShortestWatchdog })
	_ = s.ask()
	s.await("service hangs")
	s.await("state=resting", `exit="exit status 0"`, "for=")
}

// The program changes how long it may be silent, and never to less than it could be listened to.
func TestWatchdogChanged(t *testing.T) {
	s := up(t, "change", func(service *spec.Service) { service.Watchdog = time.Hour })
	_ = s.ask()
	s.await("service hangs", "watchdog=100ms")
	s.await("state=resting")
}

// A program may say itself that it hangs, without a watchdog; and what went wrong.
func TestWatchdogTriggered(t *testing.T) {
	s := up(t, "trigger", func(service *spec.Service) { service.Process.Notify = true })
	_ = s.ask()
	s.await("service tells of an error", `err="no such file or directory"`, "bus=org.Hangs", "exit=3")
	s.await("service hangs, by its own word")
	s.await("state=resting")
}

// A word that is late only since we were not let run keeps the program alive.
func TestWatchdogGrace(t *testing.T) {
	w := watchdog{every: time.Second}
	now := time.Now()
	w.hear(now)
	for _, step := range []struct {
		after  time.Duration
		missed bool
	}{{time.Second - 1, false}, {time.Second, false}, {time.Second + lastWord - 1, false}, {time.Second + lastWord, true}, {time.Hour, false}} {
		if got := w.isMissed(now.Add(step.after)); got != step.missed {
			t.Errorf("after %v: %v", step.after, got)
		}
	}
	w.hear(now)
	_ = w.isMissed(now.Add(time.Second))
	w.hear(now.Add(time.Second)) // it came
	if w.isMissed(now.Add(2*time.Second-1)) || w.isMissed(now.Add(2*time.Second)) {
		t.Error("the grace is not given again")
	}
	if w.change(0); w.every != 0 {
		t.Error("never is a time")
	}
	if w.hear(now); !w.due.IsZero() || w.isMissed(now.Add(time.Hour)) {
		t.Error("watched, though it may be silent for ever")
	}
}

// What a program may say grows with time: who says a word now and then never waits.
func TestAllowance(t *testing.T) {
	var a allowance
	now := time.Now()
	for n := range 10 * chatter {
		if pause := a.take(now.Add(time.Duration(n) * chatterPause)); pause > 0 {
			t.Fatalf("word %d waits for %v", n, pause)
		}
	}
	a = allowance{}
	for n := range chatter {
		if pause := a.take(now); pause > 0 {
			t.Fatalf("word %d waits for %v", n, pause)
		}
	}
	if pause := a.take(now); pause != chatterPause {
		t.Errorf("one too many waits for %v", pause)
	}
}
