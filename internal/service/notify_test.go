package service

import (
	"io"
	"strings"
	"testing"
	"time"

	"activator/internal/spec"
)

// EXTEND_TIMEOUT_USEC= asks for more time; what asks for less gets what it has,
// as in systemd.
func TestNotifyNeverShortens(t *testing.T) {
	s := up(t, "hasty", func(service *spec.Service) { service.Process.Notify = true })
	s.answered(s.ask())
	s.await("state=running")
}

// Who never gets ready serves nobody, however long a start may take: hold counts.
func TestHoldOutlastsStarts(t *testing.T) {
	s := up(t, "deaf", func(service *spec.Service) {
		service.Process.Notify, service.StartTimeout, service.Hold = true, 200*time.Millisecond, 50*time.Millisecond
	})
	c := s.ask()
	if text, _ := io.ReadAll(c); len(text) > 0 {
		t.Errorf("answer %q", text)
	}
	s.await("turned away")
}

// A program that never stops talking is listened to now and then: its words cost
// nobody else the log or the processor.
func TestNotifyFlood(t *testing.T) {
	begin := time.Now()
	s := up(t, "chatter", func(service *spec.Service) { service.Process.Notify = true })
	s.answered(s.ask())
	s.await("state=running")
	s.answered(s.ask())
	time.Sleep(200 * time.Millisecond) // for it to do its worst
	s.stop()
	most := 2*chatter + int(time.Since(begin)/chatterPause) + 1 // the rest of it when it has ended
	said := 0
	for ended := false; !ended; {
		line := <-s.log
		if strings.Contains(line, "service status") {
			said++
		}
		ended = strings.Contains(line, "state=ended")
	}
	if said > most {
		t.Errorf("%d messages heard, at most %d are allowed for", said, most)
	}
}
