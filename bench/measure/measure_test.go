package measure

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"activator/bench/report"
	"activator/bench/stand"
)

// scripted gives values in order, and an error where there are no more.
type scripted struct {
	name   string
	values []float64
	turns  *[]string
	closed *int
}

var errOver = errors.New("no\nmore values")

func (s *scripted) measure() (float64, error) {
	*s.turns = append(*s.turns, s.name)
	if len(s.values) == 0 {
		return 0, errOver
	}
	v := s.values[0]
	s.values = s.values[1:]
	return v, nil
}

func (s *scripted) close() { *s.closed++ }

func TestAlternate(t *testing.T) {
	var turns []string
	closed := 0
	contend := func(name string, values ...float64) contender {
		return contender{name, name == "a", func(*Bench) (bout, error) { return &scripted{name, values, &turns, &closed}, nil }}
	}
	b := &Bench{World: &stand.World{Ctx: t.Context()}, Scale: 1, Progress: func(string, ...any) {}}
	rows := b.alternate(3, []contender{
		contend("a", 1, 2, 3.00049),
		contend("b", 4),
		{"c", false, func(*Bench) (bout, error) { return nil, errors.New("c is not installed") }},
	})
	if got, want := strings.Join(turns, ""), "abbaa"; got != want {
		t.Errorf("turns %s, want %s", got, want)
	}
	if want := []float64{1, 2, 3}; !slices.Equal(rows[0].Values, want) || !rows[0].Ours || rows[0].Absent != "" {
		t.Errorf("a: %+v, want %v", rows[0], want)
	}
	if rows[1].Values != nil || rows[1].Absent != "failed in round 2: no more values" {
		t.Errorf("b: %+v", rows[1])
	}
	if rows[2].Absent != "c is not installed" {
		t.Errorf("c: %+v", rows[2])
	}
	if closed != 2 {
		t.Errorf("%d were closed, want 2", closed)
	}
}

func TestInParts(t *testing.T) {
	var turns []string
	closed, made := 0, 0
	b := &Bench{World: &stand.World{Ctx: t.Context()}, Scale: 1, Progress: func(string, ...any) {}}
	rows := b.inParts(9, func() []contender {
		made++
		first := float64(10 * made)
		return []contender{{"a", true, func(*Bench) (bout, error) {
			return &scripted{"a", []float64{first, first + 1, first + 2}, &turns, &closed}, nil
		}}, {"b", false, func(*Bench) (bout, error) {
			if made == 3 {
				return nil, errOver
			}
			return &scripted{"b", []float64{1, 2}, &turns, &closed}, nil
		}}}
	})
	if want := []float64{10, 20, 30, 40, 41, 50, 60, 70, 71}; !slices.Equal(rows[0].Values, want) || made != 7 || closed != 13 {
		t.Errorf("%+v, want %v; %d made, %d closed", rows[0], want, made, closed)
	}
	if rows[1].Values != nil || rows[1].Absent == "" {
		t.Errorf("%+v", rows[1])
	}
}

// Whose time is over is not forgotten.
func TestAlternateWithoutTime(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	var turns []string
	closed := 0
	b := &Bench{World: &stand.World{Ctx: ctx}, Scale: 1, Progress: func(string, ...any) {}}
	cancel(errors.New("over"))
	rows := b.alternate(3, []contender{{"a", true, func(*Bench) (bout, error) { return &scripted{"a", nil, &turns, &closed}, nil }}})
	if rows[0].Absent != "over" || len(turns) != 0 || closed != 1 {
		t.Errorf("%+v, %d turns, %d closed", rows, len(turns), closed)
	}
	part := b.Run(Measurement{Name: "m", Run: func(*Bench, *report.Part) error { t.Error("measured"); return nil }})
	if part.Absent != "over" {
		t.Errorf("%+v", part)
	}
}

func TestGoals(t *testing.T) {
	table := report.Table{Rows: []report.Row{{Case: "a", Values: []float64{1, 2, 3}}, {Case: "b", Values: []float64{4}}, {Case: "c", Absent: "gone"}}}
	for _, test := range []struct {
		goal    report.Goal
		verdict string
	}{
		{ratio(table, "", "a", "b", 0.5), "met"},
		{ratio(table, "", "a", "b", 0.49), "missed"},
		{ratio(table, "", "a", "c", 1), "not measured"},
		{ratio(table, "", "a", "d", 1), "not measured"},
		{atLeast("", "", 2, quotient(table.Row("b"), table.Row("a"))), "met"},
		{atLeast("", "", 2.1, quotient(table.Row("b"), table.Row("a"))), "missed"},
	} {
		if got := test.goal.Verdict(); got != test.verdict {
			t.Errorf("%+v: %s, want %s", test.goal, got, test.verdict)
		}
		if (test.goal.Absent == "") == (test.verdict == "not measured") {
			t.Errorf("%+v: no reason", test.goal)
		}
	}
}

const trace = `# tracer: nop
           bench-100     [000] .....    10.000100: sys_connect(fd: 7, uservaddr: c000, addrlen: 10)
           bench-100     [000] d.s2.    10.000150: sched_waking: comm=activator pid=201 prio=120 target_cpu=001
          <idle>-0       [001] d..2.    10.000160: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=activator next_pid=200 next_prio=120
          <idle>-0       [001] d..2.    10.000170: sched_switch: prev_comm=swapper/1 prev_pid=0 prev_prio=120 prev_state=R ==> next_comm=activator next_pid=201 next_prio=120
           bench-100     [000] .....    10.000180: sys_write(fd: 7, buf: c000, count: 1)
       activator-201     [001] .....    10.000200: sys_write(fd: 1a, buf: c000, count: 1)
       activator-201     [001] d..1.    10.000210: sched_waking: comm=activator pid=202 prio=120 target_cpu=000
             exe-300     [000] .....    10.000230: sys_write(fd: 5, buf: c000, count: 1)
             exe-300     [000] .....    10.000250: sys_execve(filename: c000, argv: c000, envp: c000)
            echo-300     [000] .....    10.000450: sched_process_exec: filename=/bin/echo pid=300 old_pid=300
           bench-100     [000] .....    10.001000: sys_read -> 0x1
`

func TestParseTrace(t *testing.T) {
	m, err := parseTrace(trace, "300")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []float64{50, 20, 30, 50, 200, 550} {
		if got := m[i+1] - m[i]; got < want-0.01 || got > want+0.01 {
			t.Errorf("step %q: %v, want %v", steps[i], got, want)
		}
	}
}

func TestParseTraceWantsAll(t *testing.T) {
	lines := strings.SplitAfter(trace, "\n")
	for _, missing := range []int{1, 2, 4, 6, 9, 10, 11} {
		less := strings.Join(slices.Delete(slices.Clone(lines), missing, missing+1), "")
		if m, err := parseTrace(less, "300"); err == nil {
			t.Errorf("without %q: %v", lines[missing], m)
		}
	}
	if _, err := parseTrace(trace, "301"); err == nil {
		t.Error("a sandbox that is not there has been seen")
	}
}

func TestWrkFigure(t *testing.T) {
	const out = "Running 1s test\nRequests/sec:  12345.67\nTransfer/sec:      1.50GB\n"
	if v, err := requestRate(out); err != nil || v != 12345.67 {
		t.Errorf("requests: %v, %v", v, err)
	}
	if v, err := transferRate(out); err != nil || v < 12.88 || v > 12.89 {
		t.Errorf("transfer: %v, %v", v, err)
	}
	for _, wrong := range []string{"", "Requests/sec:", "Requests/sec: many"} {
		if v, err := requestRate(wrong); err == nil {
			t.Errorf("%q: %v", wrong, v)
		}
	}
}

func TestWrkCount(t *testing.T) {
	if n, err := wrkCount("  Thread Stats   Avg\n  12345 requests in 1.00s, 2.5MB read\n"); err != nil || n != 12345 {
		t.Errorf("%v, %v", n, err)
	}
	for _, wrong := range []string{"", " requests in 1s", "many requests in 1s", "0 requests in 1s"} {
		if n, err := wrkCount(wrong); err == nil {
			t.Errorf("%q: %v", wrong, n)
		}
	}
}

// What certainly misses the bound is missed, and what may miss it is not met.
func TestSameOrMore(t *testing.T) {
	table := report.Table{Base: "b", Paired: true, Rows: []report.Row{
		{Case: "a", Values: []float64{96, 97, 98, 97, 97, 97}},
		{Case: "b", Values: []float64{100, 100, 100, 100, 100, 100}}, {Case: "c", Absent: "gone"}}}
	for bound, verdict := range map[float64]string{0.96: "met", 0.98: "undecided", 0.99: "missed"} {
		g := sameOrMore(table, "", "a", bound)
		if g.Verdict() != verdict || *g.Value != 0.97 || *g.Low != 0.96 || *g.High != 0.98 {
			t.Errorf("bound %v: %s, %v (%v to %v)", bound, g.Verdict(), *g.Value, *g.Low, *g.High)
		}
	}
	if g := sameOrMore(table, "", "c", 1); g.Verdict() != "not measured" || g.Absent == "" {
		t.Errorf("%+v", g)
	}
}

func TestIperfRate(t *testing.T) {
	if v, err := iperfRate(`{"end":{"sum_received":{"bits_per_second":2.5e9}}}`); err != nil || v != 2.5 {
		t.Errorf("%v, %v", v, err)
	}
	for _, wrong := range []string{"", "{}", `{"error":"refused"}`} {
		if v, err := iperfRate(wrong); err == nil {
			t.Errorf("%q: %v", wrong, v)
		}
	}
}

// Names are those of files and links.
func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range All() {
		if m.Name == "" || m.Title == "" || strings.TrimSpace(m.How) == "" || seen[m.Name] || strings.ContainsAny(m.Name, " /.") {
			t.Errorf("measurement %q, %q", m.Name, m.Title)
		}
		seen[m.Name] = true
	}
}

func TestStopsIn(t *testing.T) {
	lines := []string{
		"time=2026-01-02T03:04:05.100Z level=INFO service=a state=running pid=1",
		"time=2026-01-02T03:04:05.200Z level=INFO service=a state=stopping idle=50ms",
		`time=2026-01-02T03:04:05.203Z level=INFO service=a state=listening pid=1 exit="exit status 0"`,
		"time=2026-01-02T03:04:05.300Z level=INFO service=a state=stopping", // by itself
		`time=2026-01-02T03:04:05.301Z level=INFO service=a state=listening exit="exit status 0"`,
		"time=2026-01-02T03:04:05.400Z level=INFO service=a state=stopping idle=50ms",
	}
	if other, err := stopsIn(lines, "b"); err != nil || len(other) != 0 {
		t.Errorf("another service's: %v, %v", other, err)
	}
	stops, err := stopsIn(lines, "a")
	if err != nil || len(stops) != 1 {
		t.Fatalf("%v, %v", stops, err)
	}
	var times []time.Time
	for _, ms := range []int{199, 200, 202, 203, 204, 300} {
		times = append(times, stops[0].from.Add(time.Duration(ms-200)*time.Millisecond))
	}
	if n := within(times, stops); n != 3 {
		t.Errorf("%d came then, want 3", n)
	}
	if _, err := stopsIn([]string{" service=a state=stopping idle=1s"}, "a"); err == nil {
		t.Error("a line without a time was read")
	}
}
