package process

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// Stdio is what the program has as 0, 1 and 2; nil is /dev/null.
type Stdio struct {
	In, Out, Err *os.File
}

// Inputs is what one start of a process is given.
type Inputs struct {
	Stdio
	Sockets []*os.File
	Client  Client
	Engine  Engine // says what to start in place of the program, and behind what; nil: none
}

// NotifyPath is where the notification socket stands in a sandbox.
const NotifyPath = "/run/.notify"

// Prepare starts a process and returns when everything is built that can
// be built before the first client is there; it may stay like this for
// as long as nobody comes. It lends stdio and sockets, until it returns. What the host
// or the kernel refuses comes back as *StepError.
func (s *Starter) Prepare(ctx context.Context, process spec.Process, given Inputs) (*Process, error) {
	process.Env = withDefaults(&process)
	if given.Engine != nil {
		process.Bare, process.Sandbox.Init = true, true
	}
	b := &preparation{starter: s, plan: plan{Process: process}, client: given.Client, engine: given.Engine}
	defer b.closeJoined()
	p, err := b.startChild(ctx, given.Stdio, placeSockets(process.Handed, &given.Stdio, given.Sockets))
	if err != nil {
		b.giveUp()
		return nil, err
	}
	defer b.closeLent()
	// Before it gets what it needs to go on.
	if err = p.putUnderGuard(); err == nil {
		err = p.buildChild(ctx, b)
	}
	if err != nil {
		p.Kill()
		_, _ = p.Wait()
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// preparation is a process on its way from specification to its own first step.
type preparation struct {
	starter      *Starter
	client       Client
	id           identity
	plan         plan
	sandbox      *sandbox.Plan // nil: bare
	engine       Engine        // nil: none
	restrictions *sandbox.EnginePlan
	joined       *os.File // whose namespaces an engine enters; nil: ours
	mustEnd      bool     // the engine waits for Ended
	trees        []int    // ours, closed when the child has its copies
	notify       *notifySocket
	folders      []string  // runtime directories held
	taken        hostState // from the host
	calls        *callList
	pid          int
	lent         []int // what the child gets: 0 to 2, the sockets, and what it only needs to build
}

// startChild clones a child. The kernel takes half a millisecond to make namespaces, in
// which we find out what will be in them.
func (b *preparation) startChild(ctx context.Context, stdio Stdio, sockets []*os.File) (*Process, error) {
	if len(b.plan.Argv) == 0 {
		return nil, nothingToRun()
	}
	var err error
	if b.id, err = findIdentity(&b.plan.Process); err != nil {
		return nil, err
	}
	if b.engine != nil {
		b.mustEnd = true
		if b.joined, err = b.engine.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	b.givePipes(stdio)
	b.plan.Sandbox.Unmounted = b.plan.Sandbox.Unmounted || opensAnew(stdio.Out) || opensAnew(stdio.Err)
	b.lent = b.listDescriptors(stdio, sockets)
	cloned, err := b.cloneChild()
	if err != nil {
		return nil, err
	}
	err = b.resolvePlan(len(sockets))
	if err == nil {
		err = b.writeCalls()
	}
	child := <-cloned
	if child.err != nil && err == nil {
		err = child.err
	}
	if err != nil {
		child.endChild()
		return nil, err
	}
	b.pid = child.pid
	return b.adoptChild(child)
}

func nothingToRun() *StepError { return &StepError{Step: "exec", Cure: "no program given"} }

// resolvePlan finds out what it takes.
func (b *preparation) resolvePlan(sockets int) error {
	p := &b.plan
	mounts, env, err := b.makeDirectories()
	if err == nil {
		p.Sandbox.Notify = p.Notify
		p.Sandbox.Cores = slices.ContainsFunc(p.Limits, func(l spec.Limit) bool { return l.Resource == "core" })
		p.Env = b.id.completeEnv(slices.Concat(fdpass.Strip(p.Env), env))
		p.Limits, p.Sockets = completeLimits(&p.Process), sockets
		err = b.resolveSandbox(mounts)
	}
	if err == nil && p.Notify {
		err = b.openNotify()
	}
	if err == nil {
		err = b.askEngine()
	}
	return err
}

// resolveSandbox resolves the sandbox and, as root, opens what it mounts with our eyes.
func (b *preparation) resolveSandbox(directories []spec.Mount) error {
	if b.plan.Bare {
		return nil
	}
	if b.client == ClientAbsent {
		b.taken.noteHost(b)
	}
	var err error
	b.sandbox, err = sandbox.NewPlan(b.plan.Sandbox, b.plan.Name, b.plan.Argv[0], directories)
	if err == nil && b.client == ClientAbsent {
		b.taken.noteSources(b.sandbox)
	}
	if err != nil || !b.id.change {
		return err
	}
	b.trees, err = b.sandbox.OpenTrees()
	var refused *StepError
	if errors.As(err, &refused) && refused.Errno == unix.EPERM {
		return nil // a root that may not mount: the child may, in its namespace
	}
	return err
}

func (b *preparation) openNotify() error {
	var err error
	if b.notify, err = newNotifySocket(b.plan.Bare, b.id); err != nil {
		return err
	}
	path := NotifyPath
	if b.plan.Bare {
		path = b.notify.path
	}
	if b.engine == nil { // its own messages would tell of numbers that mean nothing outside
		b.plan.Env = append(b.plan.Env, "NOTIFY_SOCKET="+path)
	}
	return nil
}

// opensAnew reports whether who holds f can have another file by opening it once more:
// of a pipe or a socket there is nothing else, and /dev/null is inside too.
func opensAnew(f *os.File) bool {
	if f == nil {
		return false
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fdOf(f, -1), &stat); err != nil {
		return true
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFIFO, unix.S_IFSOCK:
		return false
	case unix.S_IFCHR:
		return stat.Rdev != unix.Mkdev(1, 3)
	}
	return true
}

// givePipes gives pipes to the service's user: programs that log to /dev/stdout open it
// anew, and a pipe is its maker's, 0600. What is refused is left to the program.
func (b *preparation) givePipes(stdio Stdio) {
	if !b.id.change {
		return
	}
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		fd := fdOf(f, -1)
		var stat unix.Stat_t
		if f != nil && unix.Fstat(fd, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFIFO {
			_ = unix.Fchown(fd, b.id.uid, b.id.gid)
		}
	}
}

// listDescriptors lists what the child gets, as our numbers.
func (b *preparation) listDescriptors(stdio Stdio, sockets []*os.File) (files []int) {
	for _, f := range []*os.File{stdio.In, stdio.Out, stdio.Err} {
		files = append(files, fdOf(f, b.starter.null))
	}
	for _, f := range sockets {
		files = append(files, fdOf(f, b.starter.null))
	}
	return files
}

// closeLent closes what only the child needed, once it has its copies.
func (b *preparation) closeLent() {
	sandbox.CloseTrees(b.trees)
	b.trees = nil
}

// giveUp gives up what the process would have owned.
func (b *preparation) giveUp() {
	b.closeLent()
	if b.notify != nil {
		b.notify.closeSocket()
	}
	if b.calls != nil {
		b.calls.Close()
	}
	b.starter.runtime.removeUsers(b.folders)
	if b.mustEnd {
		b.engine.Ended(true) // it has not been started
	}
}

// closeJoined closes it, of whom the child has its copy.
func (b *preparation) closeJoined() {
	if b.joined != nil {
		_ = b.joined.Close()
	}
}

// fdOf is the descriptor of f, which its owner keeps open until we return.
func fdOf(f *os.File, null int) int {
	number := null
	if f != nil {
		_ = fd.Control(f, func(fd int) error {
			number = fd
			return nil
		})
	}
	return number
}

func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return syscall.EIO
}

// completeEnv completes the environment with what only now is known: the program's number
// as it sees it itself, and a pidfd of it, which is lent.
func (p *plan) completeEnv(pid, pidfd int) ([]string, error) {
	if p.Sockets == 0 {
		return p.Env, nil
	}
	listen, err := fdpass.Environ(p.FDNames, pid, pidfd)
	if err != nil {
		return nil, &StepError{Step: "LISTEN_FDS", Errno: errnoOf(err), Cure: err.Error()}
	}
	return slices.Concat(p.Env, listen), nil
}
