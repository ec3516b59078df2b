package supervise

import (
	"os"
	"strings"
	"testing"
	"time"
)

// pairs calls f for every cell of the table.
func pairs(f func(s State, e Event, step Step)) {
	for s := Listening; s <= Ended; s++ {
		for e := Client; e <= End; e++ {
			f(s, e, Next(s, e))
		}
	}
}

// hasProcess tells the states in which a process of the service may exist.
func hasProcess(s State) bool { return s != Listening && s != Resting && s != Ended }

// hasProgram tells those in which it may have exec'ed the program.
func hasProgram(s State) bool { return hasProcess(s) && s != Warming && s != Warm }

func TestTableProperties(t *testing.T) {
	if len(table) != len(stateNames) || len(table[0]) != len(eventNames) || len(actionNames) != int(Release)+1 {
		t.Fatal("the table, the states, the events and the actions differ in number")
	}
	pairs(func(s State, e Event, step Step) {
		for _, wrong := range processFaults(s, e, step) {
			t.Errorf("%v x %v -> %v/%v: %s", s, e, step.Next, step.Action, wrong)
		}
		for _, wrong := range clientFaults(s, e, step) {
			t.Errorf("%v x %v -> %v/%v: %s", s, e, step.Next, step.Action, wrong)
		}
	})
}

// processFaults says what a step does wrong to a process.
func processFaults(s State, e Event, step Step) (wrong []string) {
	rule := func(kept bool, what string) {
		if !kept {
			wrong = append(wrong, what)
		}
	}
	a, makes := step.Action, step.Action == Start || step.Action == Prepare
	rule(!makes || !hasProcess(s) && s != Resting, "makes a second process, or during the rest")
	rule(makes == (!hasProcess(s) && hasProcess(step.Next)), "gets a process without making one")
	rule((a == Prepare) == (step.Next == Warming && s != Warming), "Warming is entered by Prepare")
	rule((a == Keep) == (step.Next == Warm && s != Warm), "Warm is entered by Keep")
	gone := e == Exited || e == StartFailed
	rule(!hasProcess(s) || hasProcess(step.Next) || gone || a == Discard, "forgets a process that is not gone")
	rule(a != Discard || s == Warm, "discards what is more than a sandbox that stands")
	rule(!(hasProcess(s) && hasProcess(step.Next) && gone), "keeps a state with a process after it is gone")
	rule(a != Stop && a != Kill && a != Await || hasProcess(s), "signals a process that does not exist")
	rule(a != Go || s == Warm || e == Prepared, "says go to nobody")
	rule(!hasProgram(s) || step.Next != Warming && step.Next != Warm, "a program becomes a sandbox again")
	return wrong
}

// clientFaults says what a step does wrong to clients.
func clientFaults(s State, e Event, step Step) (wrong []string) {
	rule := func(kept bool, what string) {
		if !kept {
			wrong = append(wrong, what)
		}
	}
	a := step.Action
	enters := step.Next == Starting && s != Starting
	rule(enters == (e == Client && waits(s)), "Starting is for a client, and every client of who waits starts it")
	rule(!enters || a == Start || a == Claim || a == Go, "Starting is entered by Start, Claim and Go")
	rule(a != Start && a != Claim || enters, "starts without Starting")
	rule(a != Refuse || !hasProgram(s), "takes clients from a queue that a program holds")
	ended := s == Ending || s == Ended
	rule(!ended || step.Next == Ending || step.Next == Ended, "comes back after the end")
	rule((step.Next == Ended) == (a == Release || s == Ended), "Ended is entered by Release")
	return wrong
}

// Nothing ever fails for good: from every state but the last two, some way leads
// back to Listening, and from every state End leads to Ended.
func TestTableReaches(t *testing.T) {
	reaches := func(from, to State, without map[Event]bool) bool {
		seen := map[State]bool{from: true}
		todo := []State{from}
		for len(todo) > 0 {
			s := todo[0]
			todo = todo[1:]
			if s == to {
				return true
			}
			for e := Client; e <= End; e++ {
				if n := Next(s, e).Next; !without[e] && !seen[n] {
					seen[n] = true
					todo = append(todo, n)
				}
			}
		}
		return false
	}
	for s := Listening; s < Ending; s++ {
		if !reaches(s, Listening, map[Event]bool{End: true}) {
			t.Errorf("from %v no way leads back to listening", s)
		}
		if !reaches(Next(s, End).Next, Ended, map[Event]bool{}) {
			t.Errorf("from %v the end is not reached", s)
		}
	}
}

func TestRestDoublesAndForgets(t *testing.T) {
	l := Limits{RestartDelay: 100 * time.Millisecond, RestartMaxDelay: 30 * time.Second}
	now := time.Unix(1000, 0)
	var h history
	var got []time.Duration
	for range 12 {
		var d time.Duration
		h, d = h.rest(l, time.Millisecond, true, now)
		got = append(got, d)
		now = now.Add(d)
	}
	want := []string{"100ms", "200ms", "400ms", "800ms", "1.6s", "3.2s", "6.4s", "12.8s", "25.6s", "30s", "30s", "30s"}
	for i, d := range got {
		if d.String() != want[i] {
			t.Errorf("failure %d rests %v, want %s", i+1, d, want[i])
		}
	}
	if _, d := h.rest(l, 299*time.Second, true, now); d != 30*time.Second {
		t.Errorf("after a run shorter than ten rests: %v", d)
	}
	if _, d := h.rest(l, 300*time.Second, true, now); d != 100*time.Millisecond {
		t.Errorf("after a good run: %v", d)
	}
}

func TestRestCountsCleanRuns(t *testing.T) {
	l := Limits{RestartDelay: 100 * time.Millisecond, RestartMaxDelay: 30 * time.Second}
	now := time.Unix(1000, 0)
	var h history
	starts := 0
	for end := now.Add(10 * time.Second); now.Before(end); starts++ {
		var d time.Duration
		h, d = h.rest(l, time.Millisecond, false, now)
		if starts < burst && d != 0 {
			t.Errorf("clean run %d of an idle service rests %v", starts+1, d)
		}
		if d > l.RestartDelay {
			t.Fatalf("a clean run rests %v", d)
		}
		now = now.Add(d + time.Millisecond)
	}
	if starts > 100+burst+2 {
		t.Errorf("%d starts in 10 s, want about one each 100 ms", starts)
	}
	if _, d := h.rest(l, time.Millisecond, false, now.Add(time.Minute)); d != 0 {
		t.Errorf("the allowance does not come back: %v", d)
	}
}

func TestRestSurvivesManyFailures(t *testing.T) {
	l := Limits{RestartDelay: time.Nanosecond, RestartMaxDelay: 1<<63 - 1}
	h := history{failures: 1 << 40}
	if _, d := h.rest(l, 0, true, time.Unix(0, 0)); d <= 0 || d > l.RestartMaxDelay {
		t.Errorf("rest %v", d)
	}
}

func TestDiagramIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), Diagram()) {
		t.Errorf("docs/architecture.md does not hold the diagram of the table:\n%s", Diagram())
	}
}
