package supervise

import (
	"fmt"
	"strings"
)

// State is where a service is in its life.
type State uint8

// The states. A process of the service exists in Warming and Warm, where it is a
// sandbox without a program, and in Starting, Running, Stopping, Aborting and Ending.
const (
	Listening State = iota // the sockets are watched; no process
	Warming                // the same, and the next sandbox is being built
	Warm                   // the same, and the next sandbox stands
	Starting               // a process is on its way to its first answer
	Running                // the program has the sockets; they are not watched
	Stopping               // the program ends by its own word, or to be started anew
	Aborting               // the start took too long; the process is being killed
	Resting                // no process, and none before a delay is over
	Ending                 // the program is being stopped for good
	Ended                  // no process, nothing watched
)

var stateNames = [...]string{"listening", "warming", "warm", "starting", "running", "stopping", "aborting", "resting", "ending", "ended"}

func (s State) String() string { return stateNames[s] }

// Event is what happens to a service. Time is an event too.
type Event uint8

// The events.
const (
	Client      Event = iota // a socket is readable
	Turn                     // it is the service's turn to build its next sandbox
	Prepared                 // the sandbox stands
	Up                       // the program runs; with notify: it said READY=1
	StartFailed              // no program: the sandbox or the execve was refused, the sandbox is gone, or a socket is broken
	Exited                   // the process is gone and reaped
	Leaving                  // the program said STOPPING=1
	Timeout                  // the time of the state is over
	HoldOver                 // a client has waited for as long as it may
	Idle                     // nobody has used the service for idle_timeout, and it has been told to end
	Outdated                 // a socket had to be bound anew: the process holds the old one
	End                      // stop for good
)

var eventNames = [...]string{"client", "turn", "prepared", "up", "start failed", "exited", "leaving", "timeout", "hold over", "idle", "outdated", "end"}

func (e Event) String() string { return eventNames[e] }

// Action is what a step does besides changing the state. The service's own
// goroutine carries it out.
type Action uint8

// The actions.
const (
	None    Action = iota
	Watch          // wait for a client on every socket, and for a turn
	Queue          // wait for a turn
	Prepare        // build a sandbox, which then waits
	Keep           // the sandbox stands: its turn is over
	Defer          // there is no sandbox: wait before the next attempt
	Discard        // the sandbox is of no use: kill it, and wait for a turn
	Claim          // a client is there for the sandbox that is being built; start_timeout runs
	Go             // let the sandbox's process exec the program; start_timeout runs
	Start          // make a process that waits for nobody; start_timeout runs
	Serve          // the start is over: its timer stops, and the one of the first look runs
	Look           // look whether anybody uses the service; if not, send stop_signal
	Await          // stop_timeout runs, no signal: the program ends by itself, or has been told to
	Stop           // send stop_signal; stop_timeout runs
	Kill           // SIGKILL; for a start still under way: give it up
	Rest           // mend the sockets, count the run, wait for the delay it earned
	Count          // look who waits, so that hold runs for them
	Refuse         // turn away whoever has waited for too long
	Release        // stop watching; nothing runs any more
)

var actionNames = [...]string{"", "watch", "queue", "prepare", "keep", "defer", "discard", "claim", "go", "start", "serve", "look", "await", "stop", "kill", "rest", "count", "refuse", "release"}

func (a Action) String() string { return actionNames[a] }

// Step is one cell of the table.
type Step struct {
	Next   State
	Action Action
}

// table is total: every state answers every event. What is not written here cannot
// happen, or comes too late to matter: it stays where it is and does nothing.
var table = [Ended + 1][End + 1]Step{
	Listening: {
		Client: {Starting, Start}, Turn: {Warming, Prepare}, StartFailed: {Resting, Rest},
		Timeout: {Listening, Queue}, HoldOver: {Listening, Refuse}, End: {Ended, Release},
	},
	Warming: {
		Client: {Starting, Claim}, Prepared: {Warm, Keep}, StartFailed: {Listening, Defer},
		Exited: {Listening, Defer}, Timeout: {Warming, Kill}, HoldOver: {Warming, Refuse},
		End: {Ending, Stop},
	},
	Warm: {
		Client: {Starting, Go}, StartFailed: {Listening, Defer}, Exited: {Listening, Defer},
		HoldOver: {Warm, Refuse}, Outdated: {Listening, Discard}, End: {Ending, Stop},
	},
	Starting: {
		Prepared: {Starting, Go}, Up: {Running, Serve}, StartFailed: {Resting, Rest},
		Exited: {Resting, Rest}, Leaving: {Stopping, Await}, Timeout: {Aborting, Kill},
		End: {Ending, Stop},
	},
	Running: {
		StartFailed: {Resting, Rest}, Exited: {Resting, Rest}, Leaving: {Stopping, Await},
		Timeout: {Running, Look}, Idle: {Stopping, Await}, Outdated: {Stopping, Stop}, End: {Ending, Stop},
	},
	Stopping: {
		StartFailed: {Resting, Rest}, Exited: {Resting, Rest}, Timeout: {Stopping, Kill},
		End: {Ending, Stop},
	},
	Aborting: {
		Up: {Aborting, Kill}, StartFailed: {Resting, Rest}, Exited: {Resting, Rest},
		Timeout: {Aborting, Kill}, End: {Ending, Kill},
	},
	Resting: {
		Client: {Resting, Count}, Timeout: {Listening, Watch}, HoldOver: {Resting, Refuse},
		End: {Ended, Release},
	},
	Ending: {
		Up: {Ending, Stop}, StartFailed: {Ended, Release}, Exited: {Ended, Release},
		Timeout: {Ending, Kill}, End: {Ending, Kill},
	},
}

// Next looks up what event does in state.
func Next(s State, e Event) Step {
	step := table[s][e]
	if step == (Step{}) {
		step.Next = s
	}
	return step
}

// Diagram draws the table as a Mermaid state diagram, for docs/architecture.md.
// Cells that change nothing and do nothing are left out.
func Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> listening\n")
	for s := Listening; s <= Ended; s++ {
		for e := Client; e <= End; e++ {
			step := Next(s, e)
			if step.Next == s && step.Action == None {
				continue
			}
			fmt.Fprintf(&b, "    %s --> %s: %s", s, step.Next, e)
			if step.Action != None {
				fmt.Fprintf(&b, " / %s", step.Action)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("    ended --> [*]\n")
	return b.String()
}
