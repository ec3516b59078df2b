package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// writeCalls writes the rest of the call list down. The child's descriptors are what it is
// lent, by their places: 0 to 2, the sockets from 3 on where the program wants them,
// what it only needs to build; and far above control.
func (prep *preparation) writeCalls() error {
	s := prep.calls
	s.root = func() string { return fmt.Sprintf("/proc/%d/root", prep.pid) }
	extra := len(prep.lent)
	trees, reports, process := prep.lendMore()
	if len(prep.lent) > s.control {
		return &StepError{Step: "start", Path: "mounts", Errno: unix.E2BIG, Cure: "these are too many"}
	}
	s.receiveMore(len(prep.lent))
	s.changeUser(prep.id, prep.sandbox)
	if prep.sandbox != nil {
		prep.sandbox.Build(s.CallList, trees)
		for i, n := range prep.reports.all() {
			s.bindReport(reports[i], n.purpose)
		}
		s.CloseFrom(extra)
		if err := s.addRestrictions(prep.sandbox, prep.plan.Limits); err != nil {
			return err
		}
	}
	if prep.restrictions != nil {
		prep.restrictions.Build(s.CallList, process)
		s.CloseFrom(extra)
		s.netnsCookie()
		s.sendListener(prep.restrictions.Confine(s.CallList))
	}
	if prep.plan.Sandbox.Init {
		s.execReaper()
		return s.Finish()
	}
	s.sendMessage(msgReady)
	if prep.waitsForRelease() {
		s.awaitRelease(prep.plan.Handed)
	}
	if err := s.execProgram(&prep.plan); err != nil {
		return err
	}
	return s.Finish()
}

// lendMore lends what the child only needs to build; -1 is what there is none of.
func (prep *preparation) lendMore() (trees, reports []int, process int) {
	process = -1
	for _, tree := range prep.trees {
		at := -1
		if tree >= 0 {
			at = prep.lendDescriptor(tree)
		}
		trees = append(trees, at)
	}
	for _, n := range prep.reports.all() {
		if !prep.plan.Bare {
			reports = append(reports, prep.lendDescriptor(fdOf(n.file, prep.starter.null)))
		}
	}
	if prep.joined != nil {
		process = prep.lendDescriptor(fdOf(prep.joined, prep.starter.null))
	}
	return trees, reports, process
}

// lendDescriptor lends fd to the child, which has it by the number that is returned.
func (prep *preparation) lendDescriptor(fd int) int {
	prep.lent = append(prep.lent, fd)
	return len(prep.lent) - 1
}
