package reaper

import (
	"io"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/kernel/proc"
)

// exitFailed is the exit status of a reaper that does not know its program's.
const exitFailed = 125

// Reaper passes on signals to a program, waits for every process that has no other parent, and ends as the
// program did.
type Reaper struct {
	bare    bool // pid 1 of no namespace: what is left is ours to kill
	engine  bool // bare, and what a container engine leaves behind is given time to end
	signals chan os.Signal
	main    atomic.Int64 // the process that is waited for, and has the signals
	last    atomic.Int64 // the last one of these; 0: there was none
	ending  atomic.Bool  // what an engine started is to end

	// Serves reports whether a process that the program leaves behind goes on serving. nil: none does.
	Serves func(pid int) bool
}

// New makes this process a reaper. Signals are kept from now on, for a program that it
// starts next.
func New(bare, engine bool) (*Reaper, error) {
	r := &Reaper{bare: bare, engine: engine, signals: make(chan os.Signal, 64)}
	signal.Notify(r.signals)
	if !bare {
		return r, nil
	}
	// What the program leaves behind comes to us; and we must outlive the
	// activator for as long as it takes to end it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, os.NewSyscallError("prctl", err)
	}
	return r, os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0))
}

// KillRest kills what is left of a program that was not started after all.
func (r *Reaper) KillRest() {
	if r.bare {
		killRest()
	}
}

// AwaitEnd waits until the program has ended, and all that it left behind, and returns the status to
// exit with: the program's, or 128+n for signal n. A program that exits with 0 and leaves a process that serves
// has gone to the background: that one takes its place. A byte from lifeline, or its end of file, ends
// everything.
func (r *Reaper) AwaitEnd(program int, lifeline io.Reader) (code int) {
	r.main.Store(int64(program))
	go r.forwardSignals()
	go r.watchLifeline(lifeline, program)
	for code = r.reapMain(); code == 0; code = r.reapMain() {
		next := r.findServing()
		if next == 0 {
			break
		}
		r.main.Store(int64(next))
		if last := r.last.Load(); last != 0 { // the other one may have ended before it saw it
			_ = unix.Kill(next, syscall.Signal(last))
		}
	}
	switch {
	case r.engine:
		if r.awaitRest(); r.ending.Load() {
			code = exitFailed // it has not cleaned up
		}
	case r.bare:
		killRest()
	}
	return code
}

// mostScans bounds the looks at processes that change meanwhile.
const mostScans = 100

// findServing finds the one of our children that goes on serving, itself or by a process below it, and has been there for
// longest; 0: none does. One that ends may leave another one, which has its sockets from birth: when all that is below us
// was on the list before each was asked, and after, there is none that was not asked.
func (r *Reaper) findServing() int {
	if r.Serves == nil {
		return 0
	}
	for range mostScans {
		parents := listParents()
		var serving []int
		for pid := range parents {
			if r.Serves(pid) {
				serving = append(serving, parents.childAbove(pid))
			}
		}
		if len(serving) > 0 {
			return slices.Min(serving)
		}
		if maps.Equal(listParents(), parents) {
			break
		}
	}
	return 0
}

// forwardSignals passes on what we are sent. SIGURG is the Go runtime's own.
func (r *Reaper) forwardSignals() {
	for received := range r.signals {
		if sig, ok := received.(syscall.Signal); ok && sig != syscall.SIGCHLD && sig != syscall.SIGURG {
			r.last.Store(int64(sig))
			_ = unix.Kill(int(r.main.Load()), sig)
		}
	}
}

// watchLifeline ends everything when the activator says so or is gone.
func (r *Reaper) watchLifeline(lifeline io.Reader, program int) {
	var word [1]byte
	_, _ = lifeline.Read(word[:])
	if !r.bare {
		os.Exit(exitFailed) // pid 1 of its namespace: the kernel kills the rest
	}
	if r.engine {
		r.endRest() // also when the engine has ended, and only the rest is waited for
		return
	}
	_ = unix.Kill(program, unix.SIGKILL)
}

// reapMain waits for all that end until the main process does.
func (r *Reaper) reapMain() (code int) {
	for {
		pid, status, err := fd.ReapChild(-1)
		r.killOrphans()
		switch program := int(r.main.Load()); {
		case err != nil:
			return exitFailed
		case pid == program && status.Exited():
			return status.ExitStatus()
		case pid == program && status.Signaled():
			return 128 + int(status.Signal())
		}
	}
}

// restTimeout is how long an engine's monitor may take to clean up.
const restTimeout = 10 * time.Second

// awaitRest waits for what an engine has left behind: its monitor, which cleans up after
// the container. What is there for longer than it may take is killed.
func (r *Reaper) awaitRest() {
	time.AfterFunc(restTimeout, r.endRest)
	for {
		if _, _, err := fd.ReapChild(-1); err != nil {
			return
		}
		r.killOrphans()
	}
}

// endRest kills our children, and those that become ours as these are reaped.
func (r *Reaper) endRest() {
	r.ending.Store(true)
	killChildren()
}

// killOrphans follows each reaping: those of the one that has ended are our children now.
func (r *Reaper) killOrphans() {
	if r.ending.Load() {
		killChildren()
	}
}

func killChildren() {
	for _, child := range listParents().children() {
		_ = unix.Kill(child, unix.SIGKILL)
	}
}

// killRest kills our children until there are none: those of a killed one become
// ours.
func killRest() {
	for {
		killChildren()
		if _, _, err := fd.ReapChild(-1); err != nil {
			return
		}
	}
}

// family is each process's parent.
type family map[int]int

// listParents lists the processes below us.
func listParents() family {
	parents := make(family)
	for _, pid := range proc.ListPids() {
		if status, err := proc.ReadStatus(pid); err == nil {
			parents[pid], _ = strconv.Atoi(status["PPid"])
		}
	}
	maps.DeleteFunc(parents, func(pid, _ int) bool { return parents.childAbove(pid) == 0 })
	return parents
}

// children lists our own.
func (f family) children() (all []int) {
	for pid, parent := range f {
		if parent == os.Getpid() {
			all = append(all, pid)
		}
	}
	return all
}

// childAbove returns the child of ours that a process is, or stands below; 0: none.
func (f family) childAbove(pid int) int {
	for range f { // they change while they are listed: there may be a circle
		if f[pid] == os.Getpid() {
			return pid
		}
		pid = f[pid]
	}
	return 0
}
