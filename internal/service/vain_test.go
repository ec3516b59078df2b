package service

import (
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"activator/internal/listen"
	"activator/internal/output"
	"activator/internal/spec"
)

// A program that ends at once with 0, and takes no client, is started less and less often while somebody waits.
func TestVainRunsRest(t *testing.T) {
	for name, change := range map[string]func(*spec.Service){
		"up":               func(*spec.Service) {},
		"not up":           func(service *spec.Service) { service.Process.Notify = true },
		"clients for ever": func(service *spec.Service) { service.Hold = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			s := up(t, "vain", func(service *spec.Service) {
				change(service)
				service.RestartDelay, service.RestartMaxDelay = 100*time.Millisecond, 400*time.Millisecond
			})
			s.ask()
			for _, delay := range []string{"200ms", "400ms", "400ms"} {
				s.await("state=resting", "exit=\"exit status 0\"", "for="+delay)
			}
		})
	}
}

// One that takes a client in each run, and ends with 0, is not slowed, whoever else waits.
func TestServedRunsAreNotVain(t *testing.T) {
	s := up(t, "once", func(service *spec.Service) {
		service.RestartDelay, service.RestartMaxDelay = 100*time.Millisecond, time.Hour
	})
	var clients []net.Conn
	for range 12 {
		clients = append(clients, s.ask())
	}
	for _, c := range clients {
		s.answered(c)
	}
	s.stop()
	for {
		select {
		case line := <-s.log:
			_, rest, found := strings.Cut(line, " for=")
			rest, _, _ = strings.Cut(rest, " ")
			if d, err := time.ParseDuration(rest); found && (err != nil || d > 100*time.Millisecond) {
				t.Errorf("a run that has taken a client rests: %s", line)
			}
			continue
		default:
		}
		break
	}
}

// shortFolder is a folder whose path leaves room for a socket's.
func shortFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vain")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// idle is a service of sockets in a folder, which nobody runs.
func idle(t *testing.T, dir string, addresses ...string) *shared {
	t.Helper()
	var specs []spec.Socket
	for _, at := range addresses {
		address, err := spec.ParseAddress(strings.Replace(at, "DIR", dir, 1))
		if err != nil {
			t.Fatal(err)
		}
		specs = append(specs, spec.Socket{Address: address, Name: "test"})
	}
	sockets, err := listen.OpenAll(t.Context(), specs, listen.Means{})
	if err != nil {
		t.Fatal(err)
	}
	sink := output.NewSink(os.Stderr, "text", slog.LevelError)
	t.Cleanup(func() {
		_ = sink.Close()
		for _, socket := range sockets {
			_ = socket.Close()
		}
	})
	return &shared{Service: New(spec.Service{Timeouts: spec.Timeouts{RestartDelay: time.Second, RestartMaxDelay: time.Hour}}, Surroundings{Sink: sink}, sockets)}
}

// says is a client that says something.
func says(t *testing.T, network, at, what string) {
	t.Helper()
	c, err := net.Dial(network, at)
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Write([]byte(what))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A client at another socket than the one that the last runs left alone does not wait for their rest, and one behind those who
// were left does.
func TestOthersDoNotRestForVainRuns(t *testing.T) {
	dir := shortFolder(t)
	s := idle(t, dir, "unix://DIR/a", "unix://DIR/b")
	says(t, "unix", dir+"/a", "x")
	s.lookAtQueues()
	rest := time.Now().Add(time.Hour)
	s.until, s.calm = rest, time.Now().Add(s.spec.RestartDelay)
	says(t, "unix", dir+"/a", "x")
	if s.lookWhileResting(); !s.until.Equal(rest) {
		t.Errorf("for a client behind those who were left it rests until %v", s.until)
	}
	says(t, "unix", dir+"/b", "x")
	if s.lookWhileResting(); !s.until.Equal(s.calm) {
		t.Errorf("for a client at another socket it rests until %v, not %v", s.until, s.calm)
	}
}

// What waits as a datagram, or in a FIFO, may have come after one like it was taken: no run is in vain for it.
func TestOnlyConnectionsStand(t *testing.T) {
	dir := shortFolder(t)
	for _, test := range []struct {
		address string
		say     func()
		stand   bool
	}{
		{"unix://DIR/stream", func() { says(t, "unix", dir+"/stream", "x") }, true},
		{"unixpacket://DIR/packet", func() { says(t, "unixpacket", dir+"/packet", "x") }, true},
		{"unixgram://DIR/gram", func() { says(t, "unixgram", dir+"/gram", "x") }, false},
	} {
		s := idle(t, dir, test.address)
		if s.onlyStand(time.Now()) {
			t.Errorf("%s: nobody waits", test.address)
		}
		test.say()
		for range 2 {
			if s.lookAtQueues() {
				t.Errorf("%s: nobody was served", test.address)
			}
		}
		if len(s.queues[0]) != 1 || s.onlyStand(time.Now()) != test.stand {
			t.Errorf("%s: %d wait, and stand: %v", test.address, len(s.queues[0]), !test.stand)
		}
	}
}
