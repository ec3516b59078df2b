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
	"activator/internal/spec"
)

// Prepare starts a process and returns when everything is built that can
// be built before the first client is there; it may stay like this until a client comes. It is lent
// what is given, until it returns. What the host or the kernel refuses comes back as *StepError.
func (s *Starter) Prepare(ctx context.Context, process spec.Process, given Inputs) (*Process, error) {
	process.Env = withDefaults(&process)
	sockets := placeSockets(process.Handed, &given.Stdio, given.Sockets)
	if len(sockets) == 0 { // it has them in another way, and none by a number
		process.FDNames = nil
	}
	process.FDNames = slices.Concat(process.FDNames, given.Stored.Names)
	if given.Engine != nil {
		process.Bare, process.Sandbox.Init = true, true
	}
	if process.Sandbox.Observe = given.Observe; process.Bare {
		process.Sandbox.Observe = spec.Unobserved
	}
	prep := &preparation{starter: s, plan: plan{Process: process}, client: given.Client, engine: given.Engine, asks: given.Asks}
	defer prep.closeJoined()
	p, err := prep.startChild(ctx, given.Stdio, sockets, given.Stored.FDs)
	if err != nil {
		prep.giveUp()
		return nil, err
	}
	defer prep.closeLent()
	// Before it gets what it needs to go on.
	if err = p.putUnderGuard(); err == nil {
		err = p.putIntoGroup(given.Group)
	}
	if err == nil {
		err = prep.buildProcess(ctx, p)
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return p, nil
}

// startChild clones a child. The kernel takes half a millisecond to make namespaces, in
// which we find out what will be in them.
func (prep *preparation) startChild(ctx context.Context, stdio Stdio, sockets []*os.File, stored []int) (*Process, error) {
	if len(prep.plan.Argv) == 0 {
		return nil, nothingToRun()
	}
	var err error
	if prep.id, err = findIdentity(&prep.plan.Process); err != nil {
		return nil, err
	}
	if prep.engine != nil {
		prep.mustEnd = true
		if prep.joined, err = prep.engine.Prepare(ctx); err != nil {
			return nil, err
		}
	}
	prep.givePipes(stdio)
	prep.lent = prep.listDescriptors(stdio, sockets, stored)
	cloned, err := prep.cloneChild()
	if err != nil {
		return nil, err
	}
	err = prep.resolvePlan(len(sockets) + len(stored))
	if err == nil {
		err = prep.writeCalls()
	}
	child := <-cloned
	if child.err != nil && err == nil {
		err = child.err
	}
	if err != nil {
		child.endChild()
		return nil, err
	}
	prep.pid = child.pid
	return prep.adoptChild(child)
}

// cloneChild has a child cloned on one of the starter's threads, which does meanwhile what
// takes no plan; or it takes the one in reserve, for a client that waits. It returns at once;
// the child comes later, to be discarded or adopted.
func (prep *preparation) cloneChild() (<-chan child, error) {
	shape := newShape(&prep.plan.Process, prep.id, len(prep.lent))
	cloned := make(chan child, 1)
	if prep.client == ClientWaiting {
		if reserved := prep.starter.reserve.takeChild(shape); reserved != nil {
			prep.calls = reserved.calls
			if err := prep.mapIDs(reserved.pid); err != nil {
				reserved.endChild()
				return nil, err
			}
			cloned <- *reserved
			return cloned, nil
		}
	}
	list, slot, err := prep.starter.beginCalls(shape)
	if err != nil {
		return nil, err
	}
	prep.calls = list
	go func() { cloned <- prep.starter.cloneOnThread(shape, list, slot, prep.mapIDs) }()
	return cloned, nil
}

// mapIDs gives the user namespace of a sandbox its ids.
func (prep *preparation) mapIDs(pid int) error {
	if prep.plan.Bare {
		return nil
	}
	return prep.id.mapInto(pid)
}

// adoptChild takes the child.
func (prep *preparation) adoptChild(c child) (*Process, error) {
	for _, fd := range []int{c.pidfd, c.control} {
		if err := unix.SetNonblock(fd, true); err != nil {
			c.endChild()
			return nil, &StepError{Step: "start", Errno: errnoOf(err), Cure: "this kernel has no pidfds, Linux 5.15 is needed"}
		}
	}
	p := &Process{
		starter: prep.starter, pid: c.pid, group: prep.plan.Bare, pidOne: !prep.plan.Bare,
		hasReaper:      prep.plan.Sandbox.Init,
		needsNoRelease: !prep.waitsForRelease() && !prep.plan.Sandbox.Init,
		pidfd:          os.NewFile(uintptr(c.pidfd), "pidfd"),
		control:        os.NewFile(uintptr(c.control), "control"),
		refusals:       prep.observed(),
		ownNetwork:     !prep.plan.Bare && prep.plan.Sandbox.OwnNetwork(),
		reports:        prep.reports, folders: prep.folders, host: prep.taken, calls: prep.calls,
	}
	if prep.mustEnd {
		p.engine, prep.mustEnd = prep.engine, false
	}
	prep.reports, prep.folders, prep.calls = reportSockets{}, nil, nil
	return p, nil
}

// putIntoGroup puts it where its service's limits are kept.
func (p *Process) putIntoGroup(group Group) error {
	if group == nil {
		return nil
	}
	if err := group.Add(p.pid); err != nil {
		return &StepError{Step: "cgroup", Errno: errnoOf(err), Reason: err.Error()}
	}
	return nil
}

// beforeNodes is for a test.
var beforeNodes = func() {}

// buildProcess gives the child what it needs, and waits until it is built.
func (prep *preparation) buildProcess(ctx context.Context, p *Process) error {
	if err := raiseLimits(p.pid, prep.plan.Limits); err != nil {
		return err
	}
	defer fd.EndWith(ctx, p.control.SetDeadline)()
	if err := prep.sendInputs(p); err != nil && !errors.Is(err, syscall.EPIPE) {
		return p.explainEnd(ctx, "start", err)
	}
	if prep.isSupervised() {
		msg, err := p.receiveListener()
		if err != nil {
			return p.explainEnd(ctx, "prepare", err)
		}
		if msg != msgListener {
			return p.readRefusal(ctx, msg, "prepare")
		}
		beforeNodes()
		err = p.reports.openNodes(p.pid)
		if err == nil && prep.plan.Sandbox.SeesOthers() {
			p.owners, err = prep.findOwners(p.pid)
		}
		if err != nil {
			return p.explainEnd(ctx, "prepare", err)
		}
		if prep.asks != nil {
			prep.asks(p)
		}
	}
	msg, err := p.readMessage()
	if err != nil {
		return p.explainEnd(ctx, "prepare", err)
	}
	if msg == msgReady {
		if p.engine != nil {
			p.namespace, err = mountNamespace(p.pid)
		}
		return err
	}
	return p.readRefusal(ctx, msg, "prepare")
}

// sendInputs says what is known only now: to a reaper its plan, to the others what
// their environment will be.
func (prep *preparation) sendInputs(p *Process) error {
	if !p.hasReaper {
		pid := 1
		if !p.pidOne {
			pid = p.pid
		}
		var err error
		if p.env, err = prep.plan.completeEnv(pid, fdOf(p.pidfd, -1)); err != nil {
			return err
		}
		if err := p.calls.writeEnv(p.env); err != nil {
			return err
		}
	}
	err := fd.Control(p.control, prep.sendDescriptors)
	if err == nil && p.hasReaper {
		err = writePlan(p.control, &prep.plan)
	}
	return err
}

// sendDescriptors gives the child what was lent for it.
func (prep *preparation) sendDescriptors(control int) error {
	for some := range slices.Chunk(prep.lent, fdpass.MaxFiles) {
		if _, err := fdpass.SendMessage(control, []byte{msgFiles}, some...); err != nil {
			return err
		}
	}
	return nil
}

// placeSockets puts sockets where they belong. What will be brought is /dev/null so far.
func placeSockets(h spec.Handed, stdio *Stdio, sockets []*os.File) []*os.File {
	switch h {
	case spec.LaterFD:
		return []*os.File{nil}
	case spec.LaterStdio:
		stdio.In, stdio.Out = nil, nil
		return nil
	case spec.StdioStart:
		stdio.In, stdio.Out = sockets[0], sockets[0]
		return nil
	}
	return sockets
}
