package measure

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

var idleStop = Measurement{
	Name:  "idle-stop",
	Title: "Idle stop",
	How: `Eight services of ` + "`bin/echo`" + ` with ` + "`idle_timeout = \"50ms\"`" + ` and the least minimum run time: each is stopped whenever
nobody is there, and started by its next client. 200,000 clients come, by TCP, unix stream, UDP and unix datagram in turn, to
each service in waves of 100, each at a random moment of 50 ms. Between the waves is a random pause: half of them of up to 400
ms, so that it sleeps for a while, half of them of 45 to 70 ms, so that the wave meets its stop. *Lost* is who has no answer in
20 seconds, another's, or an error; *reset* is among them. *While it stopped* is who came between the line "state=stopping"
of the log and that of the end of the process.`,
	Run: runIdleStop,
}

const (
	visits    = 200_000
	sleepers  = 8
	inWave    = 100
	waveLasts = 50 * time.Millisecond
	// all visits together see at least so many stops
	leastStops = 101
)

// gap is the pause before a wave.
func gap() time.Duration {
	if rand.IntN(2) == 0 {
		return rand.N(400 * time.Millisecond)
	}
	return 45*time.Millisecond + rand.N(25*time.Millisecond)
}

// visiting is one kind of client and what became of them.
type visiting struct {
	name, network string

	mu           sync.Mutex
	asked        int
	lost, resets int
	met          int   // that came while it stopped
	first        error // of those lost
	longest      time.Duration
}

func (v *visiting) note(begin time.Time, err error) {
	took := time.Since(begin)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asked++
	switch {
	case err == nil:
		v.longest = max(v.longest, took)
		return
	case v.lost == 0:
		v.first = err
	}
	v.lost++
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		v.resets++
	}
}

// sleeper is a service and its visitors, a set for each kind.
type sleeper struct {
	name  string
	kinds []*visiting
	sets  []*stand.Visitors

	mu    sync.Mutex
	begun [][]time.Time // of the visits of each kind
}

// openSleepers starts the services.
func openSleepers(b *Bench, kinds []*visiting) (a *stand.Process, all []*sleeper, err error) {
	folder, err := b.Folder(stand.Self)
	if err != nil {
		return nil, nil, err
	}
	addrs := make([]map[string]string, sleepers)
	for i := range addrs {
		at := fmt.Sprintf("127.0.0.1:%d", stand.Port())
		addrs[i] = map[string]string{"tcp": at, "udp": at, "unix": filepath.Join(folder, fmt.Sprint("s", i)), "unixgram": filepath.Join(folder, fmt.Sprint("g", i))}
		var listen []string
		for _, k := range kinds {
			listen = append(listen, k.network+"://"+addrs[i][k.network])
		}
		text := fmt.Sprintf("[[socket]]\nlisten = [%s]\n[service]\nexec = [%q]\nidle_timeout = \"50ms\"\n", quoted(listen), b.Program("echo"))
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("sleeper%d.toml", i)), []byte(text), 0o644); err != nil {
			return nil, nil, err
		}
	}
	if a, err = b.ActivatorIn(stand.Self, folder); err != nil {
		return nil, nil, err
	}
	for i := range addrs {
		s := &sleeper{name: fmt.Sprint("sleeper", i), kinds: kinds, begun: make([][]time.Time, len(kinds))}
		all = append(all, s)
		for _, k := range kinds {
			set, err := stand.NewVisitors(k.network, addrs[i][k.network], inWave/len(kinds))
			if err != nil {
				return a, all, err
			}
			s.sets = append(s.sets, set)
		}
	}
	return a, all, nil
}

// waves sends n clients, unless the time of the run is over before.
func (s *sleeper) waves(ctx context.Context, n int) error {
	for i := 0; i < n; {
		time.Sleep(gap())
		if ctx.Err() != nil {
			return fmt.Errorf("after %d of %d clients of a service: %w", i, n, context.Cause(ctx))
		}
		var wave sync.WaitGroup
		for end := min(i+inWave, n); i < end; i++ {
			number := i
			wave.Go(func() {
				time.Sleep(rand.N(waveLasts))
				s.visit(number)
			})
		}
		wave.Wait()
	}
	return nil
}

func (s *sleeper) visit(number int) {
	kind := number % len(s.kinds)
	begin, err := s.sets[kind].Ask(number)
	s.kinds[kind].note(begin, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun[kind] = append(s.begun[kind], begin)
}

func (s *sleeper) close() {
	for _, set := range s.sets {
		set.Close()
	}
}

// span is a time in which the service was stopping.
type span struct{ from, to time.Time }

// stopsIn finds a service's stops in the lines of the log that tell states.
func stopsIn(lines []string, service string) (stops []span, err error) {
	stopping := time.Time{}
	for _, line := range lines {
		if !strings.Contains(line, " service="+service+" ") {
			continue
		}
		_, rest, _ := strings.Cut(line, "time=")
		text, _, _ := strings.Cut(rest, " ")
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, err
		}
		switch {
		case strings.Contains(line, "state=stopping") && strings.Contains(line, " idle="):
			stopping = at
		case !stopping.IsZero() && strings.Contains(line, " exit="):
			stops = append(stops, span{stopping, at})
			stopping = time.Time{}
		}
	}
	return stops, nil
}

// within counts the times that are in spans, in ascending order both.
func within(times []time.Time, spans []span) (n int) {
	for _, t := range times {
		for len(spans) > 0 && t.After(spans[0].to) {
			spans = spans[1:]
		}
		if len(spans) > 0 && !t.Before(spans[0].from) {
			n++
		}
	}
	return n
}

func runIdleStop(b *Bench, p *report.Part) error {
	kinds := []*visiting{{name: "TCP", network: "tcp"}, {name: "unix stream", network: "unix"}, {name: "UDP", network: "udp"}, {name: "unix datagram", network: "unixgram"}}
	a, all, err := openSleepers(b, kinds)
	defer stop(a)
	for _, s := range all {
		defer s.close()
	}
	if err != nil {
		return err
	}
	each := b.rounds(visits / sleepers)
	failed := make([]error, len(all))
	var visiting sync.WaitGroup
	for i, s := range all {
		visiting.Go(func() { failed[i] = s.waves(b.Ctx, each) })
	}
	visiting.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	lines, stops := a.Lines("state="), 0
	for _, s := range all {
		spans, err := stopsIn(lines, s.name)
		if err != nil {
			return err
		}
		stops += len(spans)
		for kind, begun := range s.begun {
			slices.SortFunc(begun, time.Time.Compare)
			kinds[kind].met += within(begun, spans)
		}
	}
	reportIdleStop(b, p, each*len(all), kinds, stops)
	return nil
}

func reportIdleStop(b *Bench, p *report.Part, n int, kinds []*visiting, stops int) {
	lost, resets := 0, 0
	losses := report.Table{Title: "Lost", Unit: "clients without their answer"}
	met := report.Table{Title: "While it stopped", Unit: "clients who came then"}
	waits := report.Table{Title: "The longest wait", Unit: "ms"}
	row := func(t *report.Table, name string, value float64) {
		t.Rows = append(t.Rows, report.Row{Case: name, Ours: true, Values: []float64{round3(value)}})
	}
	for _, v := range kinds {
		row(&losses, fmt.Sprintf("of %d by %s", v.asked, v.name), float64(v.lost))
		row(&met, v.name, float64(v.met))
		row(&waits, v.name, milliseconds(v.longest))
		if v.lost > 0 {
			b.Progress("  the first lost by %s: %v", v.name, v.first)
		}
		lost, resets = lost+v.lost, resets+v.resets
	}
	p.Tables = append(p.Tables, losses, met, waits)
	text := fmt.Sprintf("idle stop, %d clients at random moments: ", n)
	p.Goals = append(p.Goals,
		atMost(text+"lost", "clients", 0, measured{value: float64(lost)}),
		atMost(text+"reset", "clients", 0, measured{value: float64(resets)}),
		atLeast(text+"stops meanwhile", "stops", max(1, leastStops*float64(n)/visits), measured{value: float64(stops)}))
}
