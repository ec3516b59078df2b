package service

// state is where a service is in its life.
type state uint8

// The states. A process of the service exists in warming and warm, where it is a
// sandbox without a program, and in starting, running, stopping, aborting and ending.
const (
	listening state = iota // the sockets are watched; no process
	warming                // the same, and the next sandbox is being built
	warm                   // the same, and the next sandbox stands
	starting               // a process is on its way to its first answer
	running                // the program has the sockets; they are not watched
	stopping               // the program ends by its own word, or to be started anew
	aborting               // the start took too long; the process is being killed
	resting                // no process, and none before a delay is over
	ending                 // the program is being stopped for good
	ended                  // no process, nothing watched
)

var stateNames = [...]string{"listening", "warming", "warm", "starting", "running", "stopping", "aborting", "resting", "ending", "ended"}

func (s state) String() string { return stateNames[s] }

// event is what happens to a service. Time is an event too.
type event uint8

// The events.
const (
	onClient      event = iota // a socket is readable
	onSlot                     // a slot is given: the service may build its next sandbox
	onPrepared                 // the sandbox stands
	onUp                       // the program runs; with notify: it said READY=1
	onStartFailed              // no program: the sandbox or the execve was refused, the sandbox is gone, or a socket is broken
	onExited                   // the process is gone and reaped
	onLeaving                  // the program said STOPPING=1
	onTimeout                  // the time of the state is over
	onHoldOver                 // a client has waited for as long as it may
	onMissed                   // the program has not said in time that it is alive, or has said that it hangs
	onIdle                     // no client has used the service for idle_timeout, and it has been told to end
	onOutdated                 // a socket had to be bound anew: the process holds the old one
	onEnd                      // stop for good
)

var eventNames = [...]string{"client", "slot", "prepared", "up", "start failed", "exited", "leaving", "timeout", "hold over", "missed", "idle", "outdated", "end"}

func (e event) String() string { return eventNames[e] }

// action is what a step does besides changing the state. The service's own
// goroutine carries it out.
type action uint8

// The actions.
const (
	doNothing action = iota
	doWatch          // wait for a client on every socket, and for a slot
	doQueue          // wait for a slot
	doPrepare        // build a sandbox, which then waits
	doKeep           // the sandbox stands: its slot is another's
	doDefer          // there is no sandbox: wait before the next attempt
	doDiscard        // the sandbox is of no use: kill it, and wait for a slot
	doClaim          // a client is there for the sandbox; start_timeout runs
	doGo             // let the sandbox's process exec the program
	doStart          // make a process for a client that is there; start_timeout runs
	doServe          // the start is over: its timer stops, and the one of the first look runs
	doLook           // look whether anybody uses the service; if not, send stop_signal
	doAwait          // stop_timeout runs, no signal: the program ends by itself, or has been told to
	doStop           // send stop_signal; stop_timeout runs
	doAbort          // send SIGABRT, which tells a program that hangs to say where; stop_timeout runs
	doKill           // SIGKILL; for a start still under way: give it up
	doRest           // mend the sockets, count the run, wait for the delay it earned
	doCount          // look which clients wait, so that hold runs for them
	doRefuse         // turn away the clients that have waited for too long
	doRelease        // stop watching; nothing runs any more
)

var actionNames = [...]string{"", "watch", "queue", "prepare", "keep", "defer", "discard", "claim", "go", "start", "serve", "look", "await", "stop", "abort", "kill", "rest", "count", "refuse", "release"}

func (a action) String() string { return actionNames[a] }

// step is one cell of the table.
type step struct {
	next   state
	action action
}

// table is total: every state answers every event. What is not written here cannot
// happen, or comes too late to matter: it stays where it is and does nothing.
var table = [ended + 1][onEnd + 1]step{
	listening: {
		onClient: {starting, doStart}, onSlot: {warming, doPrepare}, onStartFailed: {resting, doRest},
		onTimeout: {listening, doQueue}, onHoldOver: {listening, doRefuse}, onEnd: {ended, doRelease},
	},
	warming: {
		onClient: {starting, doClaim}, onPrepared: {warm, doKeep}, onStartFailed: {listening, doDefer},
		onExited: {listening, doDefer}, onTimeout: {warming, doKill}, onHoldOver: {warming, doRefuse},
		onEnd: {ending, doStop},
	},
	warm: {
		onClient: {starting, doClaim}, onStartFailed: {listening, doDefer}, onExited: {listening, doDefer},
		onHoldOver: {warm, doRefuse}, onOutdated: {listening, doDiscard}, onEnd: {ending, doStop},
	},
	starting: {
		onPrepared: {starting, doGo}, onUp: {running, doServe}, onStartFailed: {resting, doRest},
		onExited: {resting, doRest}, onLeaving: {stopping, doAwait}, onTimeout: {aborting, doKill},
		onMissed: {stopping, doAbort}, onEnd: {ending, doStop},
	},
	running: {
		onStartFailed: {resting, doRest}, onExited: {resting, doRest}, onLeaving: {stopping, doAwait},
		onTimeout: {running, doLook}, onMissed: {stopping, doAbort}, onIdle: {stopping, doAwait}, onOutdated: {stopping, doStop}, onEnd: {ending, doStop},
	},
	stopping: {
		onStartFailed: {resting, doRest}, onExited: {resting, doRest}, onTimeout: {stopping, doKill},
		onEnd: {ending, doStop},
	},
	aborting: {
		onUp: {aborting, doKill}, onStartFailed: {resting, doRest}, onExited: {resting, doRest},
		onTimeout: {aborting, doKill}, onEnd: {ending, doKill},
	},
	resting: {
		onClient: {resting, doCount}, onTimeout: {listening, doWatch}, onHoldOver: {resting, doRefuse},
		onEnd: {ended, doRelease},
	},
	ending: {
		onUp: {ending, doStop}, onStartFailed: {ended, doRelease}, onExited: {ended, doRelease},
		onTimeout: {ending, doKill}, onEnd: {ending, doKill},
	},
}

// lookUp looks up what event does in state.
func lookUp(s state, e event) step {
	cell := table[s][e]
	if cell == (step{}) {
		cell.next = s
	}
	return cell
}
