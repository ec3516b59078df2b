package supervise

import (
	"fmt"
	"strings"
)

// State is where a service is in its life.
type State uint8

// The states. A process of the service exists in Starting, Running, Stopping,
// Aborting and Ending, and in no other.
const (
	Listening State = iota // the sockets are watched; no process
	Starting               // a process is on its way to its first answer
	Running                // the program has the sockets; they are not watched
	Stopping               // the program ends by its own word, or to be started anew
	Aborting               // the start took too long; the process is being killed
	Resting                // no process, and none before a delay is over
	Ending                 // the program is being stopped for good
	Ended                  // no process, nothing watched
)

var stateNames = [...]string{"listening", "starting", "running", "stopping", "aborting", "resting", "ending", "ended"}

func (s State) String() string { return stateNames[s] }

// Event is what happens to a service. Time is an event too.
type Event uint8

// The events.
const (
	Client      Event = iota // a socket is readable
	Up                       // the program runs; with notify: it said READY=1
	StartFailed              // no program: the sandbox or the execve was refused, or a socket is broken
	Exited                   // the process is gone and reaped
	Leaving                  // the program said STOPPING=1
	Timeout                  // the time of the state is over
	HoldOver                 // a client has waited for as long as it may
	Outdated                 // a socket had to be bound anew: the program holds the old one
	End                      // stop for good
)

var eventNames = [...]string{"client", "up", "start failed", "exited", "leaving", "timeout", "hold over", "outdated", "end"}

func (e Event) String() string { return eventNames[e] }

// Action is what a step does besides changing the state. The service's own
// goroutine carries it out.
type Action uint8

// The actions.
const (
	None    Action = iota
	Watch          // wait for a client on every socket
	Start          // make a process; start_timeout runs
	Serve          // the start is over: its timer stops
	Await          // stop_timeout runs, no signal: the program ends by itself
	Stop           // send stop_signal; stop_timeout runs
	Kill           // SIGKILL; for a start still under way: give it up
	Rest           // mend the sockets, count the run, wait for the delay it earned
	Count          // look who waits, so that hold runs for them
	Refuse         // turn away whoever has waited for too long
	Release        // stop watching; nothing runs any more
)

var actionNames = [...]string{"", "watch", "start", "serve", "await", "stop", "kill", "rest", "count", "refuse", "release"}

func (a Action) String() string { return actionNames[a] }

// Step is one cell of the table.
type Step struct {
	Next   State
	Action Action
}

// table is total: every state answers every event. What cannot happen, or comes
// too late to matter, stays where it is and does nothing.
var table = [...][9]Step{
	//          Client              Up                 StartFailed        Exited             Leaving            Timeout             HoldOver             Outdated           End
	Listening: {{Starting, Start}, {Listening, None}, {Resting, Rest}, {Listening, None}, {Listening, None}, {Listening, None}, {Listening, Refuse}, {Listening, None}, {Ended, Release}},
	Starting:  {{Starting, None}, {Running, Serve}, {Resting, Rest}, {Resting, Rest}, {Stopping, Await}, {Aborting, Kill}, {Starting, None}, {Starting, None}, {Ending, Stop}},
	Running:   {{Running, None}, {Running, None}, {Resting, Rest}, {Resting, Rest}, {Stopping, Await}, {Running, None}, {Running, None}, {Stopping, Stop}, {Ending, Stop}},
	Stopping:  {{Stopping, None}, {Stopping, None}, {Resting, Rest}, {Resting, Rest}, {Stopping, None}, {Stopping, Kill}, {Stopping, None}, {Stopping, None}, {Ending, Stop}},
	Aborting:  {{Aborting, None}, {Aborting, Kill}, {Resting, Rest}, {Resting, Rest}, {Aborting, None}, {Aborting, Kill}, {Aborting, None}, {Aborting, None}, {Ending, Kill}},
	Resting:   {{Resting, Count}, {Resting, None}, {Resting, None}, {Resting, None}, {Resting, None}, {Listening, Watch}, {Resting, Refuse}, {Resting, None}, {Ended, Release}},
	Ending:    {{Ending, None}, {Ending, Stop}, {Ended, Release}, {Ended, Release}, {Ending, None}, {Ending, Kill}, {Ending, None}, {Ending, None}, {Ending, Kill}},
	Ended:     {{Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}, {Ended, None}},
}

// Next looks up what event does in state.
func Next(s State, e Event) Step { return table[s][e] }

// Diagram draws the table as a Mermaid state diagram, for docs/architecture.md.
// Cells that change nothing and do nothing are left out.
func Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> listening\n")
	for s := range table {
		for e, step := range table[s] {
			if step.Next == State(s) && step.Action == None {
				continue
			}
			fmt.Fprintf(&b, "    %s --> %s: %s", State(s), step.Next, Event(e))
			if step.Action != None {
				fmt.Fprintf(&b, " / %s", step.Action)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("    ended --> [*]\n")
	return b.String()
}
