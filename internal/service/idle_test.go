package service

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"testing"
	"time"

	"activator/internal/spec"
)

func idleAfter(d time.Duration) func(*spec.Service) {
	return func(service *spec.Service) { service.IdleTimeout = d }
}

func TestIdleStops(t *testing.T) {
	s := up(t, "serve", idleAfter(50*time.Millisecond))
	for range 3 {
		s.answered(s.ask())
		s.await("state=running")
		s.await("state=stopping", "idle=")
		s.await("state=listening")
	}
}

// As long as a client is there, however quiet, or has only said all he has to say,
// or nobody has accepted him, the service stays.
func TestIdleKeepsClients(t *testing.T) {
	const idle = 50 * time.Millisecond
	for _, state := range []string{"quiet", "half closed", "in the queue"} {
		t.Run(state, func(t *testing.T) {
			behaviour := "hold"
			if state == "in the queue" {
				behaviour = "deaf"
			}
			s := up(t, behaviour, idleAfter(idle))
			c := s.ask()
			if state == "half closed" {
				if err := c.(*net.UnixConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			s.await("state=running")
			begin := time.Now()
			select {
			case line := <-s.log:
				t.Errorf("with a client it does not stay: %s", line)
			case <-time.After(10*idle + idle/looks): // the last look that sees him may be so long ago
			}
			if behaviour == "deaf" {
				return
			}
			_ = c.Close()
			s.await("state=stopping", "idle=")
			if stayed := time.Since(begin); stayed < 11*idle {
				t.Errorf("stopped after %v", stayed)
			}
		})
	}
}

// The program is killed, as one is that has no handler: not while it has a client,
// whenever he comes.
func TestIdleLosesNobody(t *testing.T) {
	const clients = 500
	s := up(t, "answer", func(service *spec.Service) {
		service.Warm, service.IdleTimeout, service.StopSignal = true, 5*time.Millisecond, syscall.SIGKILL
	})
	stops := 0
	for i := range clients {
		time.Sleep(time.Duration(rand.IntN(12_000)) * time.Microsecond) // the moment is what is tested
		c := s.ask()
		question := fmt.Sprint("question ", i)
		if _, err := io.WriteString(c, question); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		answer := make([]byte, len(question))
		if _, err := io.ReadFull(c, answer); err != nil || string(answer) != question {
			t.Fatalf("client %d: %q, %v", i, answer, err)
		}
		c.Close()
		stops += s.drain("state=stopping", "idle=")
	}
	t.Logf("%d clients, %d stops", clients, stops)
	if stops < clients/100 {
		t.Errorf("the service was stopped only %d times", stops)
	}
}

func TestLeastRun(t *testing.T) {
	const idle = time.Second
	var least time.Duration
	for i, want := range []time.Duration{2 * idle, 4 * idle, 8 * idle, 16 * idle, 16 * idle} {
		if least = leastRun(least, idle, 10*time.Second, time.Second); least != want {
			t.Errorf("stop %d was not worth it: the next run lasts %v, want %v", i+1, least, want)
		}
	}
	if least = leastRun(least, idle, 10*time.Second, 10*time.Second); least != 0 {
		t.Errorf("a stop was worth it, and the next run lasts %v", least)
	}
}

// A poller is not served by one start each.
func TestIdlePoller(t *testing.T) {
	const idle, polls = 200 * time.Millisecond, 40
	s := up(t, "serve", func(service *spec.Service) { service.Warm, service.IdleTimeout = true, idle })
	starts := 0
	for range polls {
		s.answered(s.ask())
		time.Sleep(idle + idle/looks + 5*time.Millisecond) // as unlucky as can be
		starts += s.drain("state=starting")
	}
	t.Logf("%d polls, %d starts", polls, starts)
	if starts > polls/2 {
		t.Errorf("%d starts for %d polls", starts, polls)
	}
}
