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

func TestTableProperties(t *testing.T) {
	if len(table) != len(stateNames) || len(table[0]) != len(eventNames) {
		t.Fatal("the table, the states and the events differ in number")
	}
	pairs(func(s State, e Event, step Step) {
		fail := func(what string) { t.Errorf("%v x %v -> %v/%v: %s", s, e, step.Next, step.Action, what) }
		if step.Action == Start && (hasProcess(s) || s == Resting) {
			fail("starts a second process, or during the rest")
		}
		if step.Action == Start != (step.Next == Starting && s != Starting) {
			fail("Starting is entered by Start and by nothing else")
		}
		gone := e == Exited || e == StartFailed
		if hasProcess(s) && !hasProcess(step.Next) && !gone {
			fail("forgets a process that is not gone")
		}
		if hasProcess(s) && hasProcess(step.Next) && gone {
			fail("keeps a state with a process after it is gone")
		}
		if (step.Action == Stop || step.Action == Kill || step.Action == Await) && !hasProcess(s) {
			fail("signals a process that does not exist")
		}
		if step.Action == Refuse && hasProcess(s) {
			fail("takes clients from a queue that a process holds")
		}
		if (s == Ending || s == Ended) && step.Next != Ending && step.Next != Ended {
			fail("comes back after the end")
		}
		if (step.Next == Ended) != (step.Action == Release || s == Ended) {
			fail("Ended is entered by Release")
		}
	})
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
