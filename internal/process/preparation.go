package process

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// preparation is a process on its way from specification to its own first step.
type preparation struct {
	starter      *Starter
	client       Client
	asks         func(*Process) // see [Inputs]
	id           identity
	plan         plan
	sandbox      *sandbox.Plan // nil: bare
	namespaced   []spec.Limit  // of its user namespace
	engine       Engine        // nil: none
	restrictions *sandbox.EnginePlan
	joined       *os.File // a process whose namespaces an engine enters; nil: ours
	mustEnd      bool     // the engine waits for Ended
	trees        []int    // ours, closed when the child has its copies
	reports      reportSockets
	folders      []string  // runtime directories held
	owned        []string  // its own directories, inside, if it may give what is in them to others
	taken        hostState // from the host
	calls        *callList
	pid          int
	lent         []int // what the child gets: 0 to 2, the sockets, and what it only needs to build
}

// waitsForRelease reports whether the child waits for Release: for its client, or for us to look at what
// is inside before the program can put something else at that path.
func (prep *preparation) waitsForRelease() bool {
	return prep.client != ClientWaiting || len(prep.reports.all())+len(prep.owned) > 0 && prep.isSupervised()
}

// isSupervised reports whether the child has a filter that asks a supervisor.
func (prep *preparation) isSupervised() bool {
	return prep.restrictions != nil || prep.sandbox != nil && prep.sandbox.Listener
}

// observed is what the filter of an observed child refuses; nil: it is not observed.
func (prep *preparation) observed() *sandbox.Plan {
	if prep.sandbox == nil || prep.plan.Sandbox.Observe == spec.Unobserved {
		return nil
	}
	return prep.sandbox
}

// resolvePlan completes the plan, and makes and opens what it names.
func (prep *preparation) resolvePlan(sockets int) error {
	p := &prep.plan
	directories, err := prep.starter.runtime.makeDirectories(p.Directories, prep.id, prep.tellGiven)
	prep.folders = directories.held
	if p.Sandbox.SeesOthers() {
		for _, m := range directories.mounts {
			prep.owned = append(prep.owned, m.Inside)
		}
	}
	if err == nil {
		p.Sandbox.Reports = p.Reports() || p.Syslog
		p.Sandbox.Cores = slices.ContainsFunc(p.Limits, func(l spec.Limit) bool { return l.Resource == "core" })
		p.Env = prep.id.completeEnv(slices.Concat(fdpass.StripEnviron(p.Env), directories.env))
		prep.namespaced = limitNamespace(&p.Process)
		p.Limits, p.Sockets = completeLimits(&p.Process), sockets
		err = prep.resolveSandbox(directories.mounts)
	}
	if err == nil {
		err = prep.openReports()
	}
	if err == nil {
		err = prep.askEngine()
	}
	return err
}

// resolveSandbox resolves the sandbox and, as root, opens what it mounts with our eyes.
func (prep *preparation) resolveSandbox(directories []spec.Mount) error {
	if prep.plan.Bare {
		return nil
	}
	if prep.client == ClientAbsent {
		prep.taken.noteHost(&prep.starter.mounts, prep.plan.Sandbox)
	}
	var err error
	prep.sandbox, err = sandbox.NewPlan(prep.plan.Sandbox, prep.plan.Name, prep.plan.Argv[0], directories, prep.id.inside(&prep.plan.Process, prep.plan.Sockets > 0))
	if err == nil {
		prep.sandbox.LimitNamespace(prep.namespaced)
	}
	if err == nil && prep.client == ClientAbsent {
		prep.taken.noteSources(prep.sandbox)
	}
	if uid, _ := prep.id.hostIDs(); err == nil && uid == 0 {
		prep.sandbox.KeepMachine()
	}
	if err != nil || !prep.id.change {
		return err
	}
	prep.trees, err = prep.sandbox.OpenTrees()
	var refused *StepError
	if errors.As(err, &refused) && refused.Errno == unix.EPERM {
		return nil // a root that may not mount: the child may, in its namespace
	}
	return err
}

func (prep *preparation) openReports() (err error) {
	if prep.plan.Syslog && !prep.plan.Bare {
		if prep.reports.syslog, err = newReportSocket(forSyslog, false, prep.id); err != nil {
			return err
		}
	}
	if !prep.plan.Reports() {
		return nil
	}
	if prep.reports.notify, err = newReportSocket(forNotify, prep.plan.Bare, prep.id); err != nil {
		return err
	}
	path := NotifyPath
	if prep.plan.Bare {
		path = prep.reports.notify.path
	}
	if prep.engine == nil { // the pids in its own messages would mean nothing outside
		prep.plan.Env = append(prep.plan.Env, "NOTIFY_SOCKET="+path)
	}
	return nil
}

// askEngine asks the engine what to start.
func (prep *preparation) askEngine() error {
	if prep.engine == nil {
		return nil
	}
	path := ""
	if prep.reports.notify != nil {
		path = prep.reports.notify.path
		// The folder that it stands in is closed to all other users; the one inside may be
		// any.
		if err := os.Chmod(path, 0o777); err != nil {
			return &StepError{Step: "notify", Path: path, Errno: errnoOf(err)}
		}
	}
	argv, engine, err := prep.engine.Command(path, prep.plan.FDNames)
	if err != nil {
		return err
	}
	prep.plan.Argv, prep.plan.Engine = argv, true
	prep.restrictions = engine.NewPlan()
	return nil
}

// listDescriptors lists what the child gets, as our numbers.
func (prep *preparation) listDescriptors(stdio Stdio, sockets []*os.File, stored []int) (files []int) {
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		files = append(files, fdOf(f, prep.starter.null))
	}
	for _, f := range sockets {
		files = append(files, fdOf(f, prep.starter.null))
	}
	return append(files, stored...)
}

// closeLent closes what only the child needed, once it has its copies.
func (prep *preparation) closeLent() {
	sandbox.CloseTrees(prep.trees)
	prep.trees = nil
}

// giveUp gives up what the process would have owned.
func (prep *preparation) giveUp() {
	prep.closeLent()
	prep.reports.closeAll()
	if prep.calls != nil {
		prep.calls.Close()
	}
	prep.starter.runtime.removeUsers(prep.folders)
	if prep.mustEnd {
		prep.engine.Ended(true) // it has not been started
	}
}

// closeJoined closes what the child has a copy of.
func (prep *preparation) closeJoined() {
	if prep.joined != nil {
		_ = prep.joined.Close()
	}
}

// givePipes gives what the program prints to to the service's user: programs that log
// to /dev/stdout open it anew, and a pipe is its maker's, 0600. A FIFO with a name is
// the host's, and stays its owner's. What is refused is left to the program.
func (prep *preparation) givePipes(stdio Stdio) {
	if !prep.id.change {
		return
	}
	for _, f := range []*os.File{stdio.Out, stdio.Err} {
		fd := fdOf(f, -1)
		var stat unix.Statfs_t
		if f != nil && unix.Fstatfs(fd, &stat) == nil && stat.Type == unix.PIPEFS_MAGIC {
			_ = unix.Fchown(fd, prep.id.uid, prep.id.gid)
		}
	}
}

// Stdio is what the program has as 0, 1 and 2; nil is /dev/null. What it prints to is
// given to its user where it is a pipe, so that it must be one that is made for it.
type Stdio struct {
	In, Out, Err *os.File
}

// Inputs is what one start of a process is given.
type Inputs struct {
	Stdio
	Sockets []*os.File
	Stored  Stored // behind the sockets
	Client  Client
	Engine  Engine           // says what to start in place of the program, and behind what; nil: none
	Observe spec.Observation // of what it does, see [Process.FindRefusal]
	Asks    func(p *Process) // called when it asks, which it does before it is the program: with [spec.ObservePaths]
	Group   Group            // where the limits of the service are kept; nil: nowhere
}

// Group is a cgroup.
type Group interface {
	// Add puts a process into it, with all that it will start.
	Add(pid int) error
}

// Stored is what an earlier instance has left, by descriptor and name.
type Stored struct {
	FDs   []int
	Names []string
}

func nothingToRun() *StepError { return &StepError{Step: "exec", Cure: "no program given"} }
