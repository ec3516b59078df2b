package service

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"activator/internal/spec"
)

// pairs calls f for every cell of the table.
func pairs(f func(s state, e event, step step)) {
	for s := listening; s <= ended; s++ {
		for e := onClient; e <= onEnd; e++ {
			f(s, e, lookUp(s, e))
		}
	}
}

// hasProcess tells the states in which a process of the service may exist.
func hasProcess(s state) bool { return s != listening && s != resting && s != ended }

// hasProgram tells those in which it may have exec'ed the program.
func hasProgram(s state) bool { return hasProcess(s) && s != warming && s != warm }

func TestTableProperties(t *testing.T) {
	if len(table) != len(stateNames) || len(table[0]) != len(eventNames) || len(actionNames) != int(doRelease)+1 {
		t.Fatal("the table, the states, the events and the actions differ in number")
	}
	pairs(func(s state, e event, step step) {
		for _, wrong := range processFaults(s, e, step) {
			t.Errorf("%v x %v -> %v/%v: %s", s, e, step.next, step.action, wrong)
		}
		for _, wrong := range clientFaults(s, e, step) {
			t.Errorf("%v x %v -> %v/%v: %s", s, e, step.next, step.action, wrong)
		}
	})
}

// processFaults says what a step does wrong to a process.
func processFaults(s state, e event, step step) (wrong []string) {
	rule := func(kept bool, what string) {
		if !kept {
			wrong = append(wrong, what)
		}
	}
	a, makes := step.action, step.action == doStart || step.action == doPrepare
	rule(!makes || !hasProcess(s) && s != resting, "makes a second process, or during the rest")
	rule(makes == (!hasProcess(s) && hasProcess(step.next)), "gets a process without making one")
	rule((a == doPrepare) == (step.next == warming && s != warming), "warming is entered by doPrepare")
	rule((a == doKeep) == (step.next == warm && s != warm), "warm is entered by doKeep")
	gone := e == onExited || e == onStartFailed
	rule(!hasProcess(s) || hasProcess(step.next) || gone || a == doDiscard, "forgets a process that is not gone")
	rule(a != doDiscard || s == warm, "discards what is more than a sandbox that stands")
	rule(!(hasProcess(s) && hasProcess(step.next) && gone), "keeps a state with a process after it is gone")
	rule(a != doStop && a != doKill && a != doAwait || hasProcess(s), "signals a process that does not exist")
	rule(a != doGo || s == warm || e == onPrepared, "says go to nobody")
	rule(!hasProgram(s) || step.next != warming && step.next != warm, "a program becomes a sandbox again")
	return wrong
}

// clientFaults says what a step does wrong to clients.
func clientFaults(s state, e event, step step) (wrong []string) {
	rule := func(kept bool, what string) {
		if !kept {
			wrong = append(wrong, what)
		}
	}
	a := step.action
	enters := step.next == starting && s != starting
	rule(enters == (e == onClient && isWaiting(s)), "starting is for a client, and every client of who waits starts it")
	rule(!enters || a == doStart || a == doClaim || a == doGo, "starting is entered by doStart, doClaim and doGo")
	rule(a != doStart && a != doClaim || enters, "starts without starting")
	rule(a != doRefuse || !hasProgram(s), "takes clients from a queue that a program holds")
	over := s == ending || s == ended
	rule(!over || step.next == ending || step.next == ended, "comes back after the end")
	rule((step.next == ended) == (a == doRelease || s == ended), "ended is entered by doRelease")
	return wrong
}

// Nothing ever fails for good: from every state but the last two, some way leads
// back to listening, and from every state onEnd leads to ended.
func TestTableReaches(t *testing.T) {
	reaches := func(from, to state, without map[event]bool) bool {
		seen := map[state]bool{from: true}
		todo := []state{from}
		for len(todo) > 0 {
			s := todo[0]
			todo = todo[1:]
			if s == to {
				return true
			}
			for e := onClient; e <= onEnd; e++ {
				if n := lookUp(s, e).next; !without[e] && !seen[n] {
					seen[n] = true
					todo = append(todo, n)
				}
			}
		}
		return false
	}
	for s := listening; s < ending; s++ {
		if !reaches(s, listening, map[event]bool{onEnd: true}) {
			t.Errorf("from %v no way leads back to listening", s)
		}
		if !reaches(lookUp(s, onEnd).next, ended, map[event]bool{}) {
			t.Errorf("from %v the end is not reached", s)
		}
	}
}

func TestRestDoublesAndForgets(t *testing.T) {
	l := spec.Timeouts{RestartDelay: 100 * time.Millisecond, RestartMaxDelay: 30 * time.Second}
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
	l := spec.Timeouts{RestartDelay: 100 * time.Millisecond, RestartMaxDelay: 30 * time.Second}
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
	l := spec.Timeouts{RestartDelay: time.Nanosecond, RestartMaxDelay: 1<<63 - 1}
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
	if !strings.Contains(string(doc), diagram()) {
		t.Errorf("docs/architecture.md does not hold the diagram of the table:\n%s", diagram())
	}
}

// diagram draws the table as a Mermaid state diagram, for docs/architecture.md.
// Cells that change nothing and do nothing are left out.
func diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> listening\n")
	for s := listening; s <= ended; s++ {
		for e := onClient; e <= onEnd; e++ {
			step := lookUp(s, e)
			if step.next == s && step.action == doNothing {
				continue
			}
			fmt.Fprintf(&b, "    %s --> %s: %s", s, step.next, e)
			if step.action != doNothing {
				fmt.Fprintf(&b, " / %s", step.action)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("    ended --> [*]\n")
	return b.String()
}
