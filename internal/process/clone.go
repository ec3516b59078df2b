package process

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"activator/internal/fdpass"
	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
)

// child is what comes of a clone: a process that waits for what it needs.
type child struct {
	pid, pidfd int
	control    int // our end of the conversation
	err        error
}

// endChild ends it, and closes what it has.
func (c child) endChild() {
	if c.err != nil {
		return
	}
	_ = unix.Close(c.control)
	_ = unix.Kill(c.pid, unix.SIGKILL)
	_, _, _ = fd.Reap(c.pid)
	_ = unix.Close(c.pidfd)
}

// cloneChild has a child cloned on one of the starter's threads, which does meanwhile what
// takes no plan; or it takes the one that is spare. It returns at once; the child comes
// later, to be discarded or adopted.
func (b *preparation) cloneChild() (<-chan child, error) {
	e := b.describeChild()
	cloned := make(chan child, 1)
	if spare, ok := b.takeReserve(e); ok {
		b.calls = spare.calls
		if err := b.mapIDs(spare.pid); err != nil {
			spare.endChild()
			return nil, err
		}
		cloned <- spare.child
		return cloned, nil
	}
	list, slot, err := b.starter.beginCalls(e)
	if err != nil {
		return nil, err
	}
	b.calls = list
	go func() { cloned <- b.starter.cloneOnThread(e, list, slot, b.mapIDs) }()
	return cloned, nil
}

// childShape is a child that knows nothing of its service yet.
type childShape struct {
	flags    uintptr
	network  string // to be born in
	loopback bool   // it has one of its own
	control  int    // the number of its end of the conversation
}

// lowControl is the end of the conversation of most children: what they get has lower
// numbers.
const lowControl = 255

// rootMounts is more than the root has mounts by default.
const rootMounts = 32

func (b *preparation) describeChild() childShape {
	e := childShape{flags: b.cloneFlags(), control: lowControl}
	// So many descriptors are lent or opened at the most: every mount may be one.
	most := len(b.lent) + len(b.plan.Directories) + len(b.plan.Sandbox.ReadOnly) + len(b.plan.Sandbox.Writable) + rootMounts
	var limit unix.Rlimit
	switch {
	case most > lowControl || b.plan.Sandbox.Root != "":
		e.control = most + 4*lowControl
	case unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur <= lowControl:
		e.control = most
	}
	if !b.plan.Bare {
		e.loopback = sandbox.CloneFlags(b.plan.Sandbox)&unix.CLONE_NEWNET != 0
		if sandbox.NetworkPath(b.plan.Sandbox.Network) != "" {
			e.network = b.plan.Sandbox.Network
		}
	}
	return e
}

// beginCalls writes down what is done before anything is known, and takes a slot.
func (s *Starter) beginCalls(e childShape) (list *callList, slot int, err error) {
	if list, err = newCallList(); err != nil {
		return nil, -1, err
	}
	if slot, err = s.takeSlot(); err == nil {
		list.separate(slot, e.control)
		if e.loopback {
			sandbox.LoopbackUp(list.CallList)
		}
		list.receiveDescriptors()
		if err = list.Finish(); err != nil {
			s.slots <- slot
		}
	}
	if err != nil {
		list.Close()
		return nil, -1, err
	}
	return list, slot, nil
}

// cloneOnThread clones a child on one of our threads, has its ids mapped, and gives slot back.
func (s *Starter) cloneOnThread(e childShape, list *callList, slot int, ids func(pid int) error) (c child) {
	closed := s.runOnThread(func() { c = s.cloneHere(e, list, slot, ids) })
	if closed != nil {
		c.err = closed
	}
	s.slots <- slot
	return c
}

// writeCalls writes the rest of the call list down. The child's descriptors are what it is
// lent, by their places: 0 to 2, the sockets from 3 on where the program wants them,
// what it only needs to build; and far above control.
func (b *preparation) writeCalls() error {
	s := b.calls
	s.root = func() string { return fmt.Sprintf("/proc/%d/root", b.pid) }
	extra := len(b.lent)
	trees, notify, process := b.lendMore()
	if len(b.lent) > s.control {
		return &StepError{Step: "start", Path: "mounts", Errno: unix.E2BIG, Cure: "these are too many"}
	}
	s.receiveMore(len(b.lent))
	s.changeUser(b)
	if b.sandbox != nil {
		b.sandbox.Build(s.CallList, trees)
		if notify >= 0 {
			s.bindNotify(notify)
		}
		s.CloseFrom(extra)
		if err := s.addRestrictions(b); err != nil {
			return err
		}
	}
	if b.restrictions != nil {
		b.restrictions.Build(s.CallList, process)
		s.CloseFrom(extra)
		s.netnsCookie()
		s.sendListener(b.restrictions.Confine(s.CallList))
	}
	if b.plan.Sandbox.Init {
		s.execReaper()
		return s.Finish()
	}
	s.sendMessage(msgReady)
	if b.waitsForRelease() {
		s.awaitRelease(b.plan.Handed)
	}
	if err := s.execProgram(&b.plan); err != nil {
		return err
	}
	return s.Finish()
}

// lendMore lends what the child only needs to build; -1 is what there is none of.
func (b *preparation) lendMore() (trees []int, notify, process int) {
	notify, process = -1, -1
	for _, tree := range b.trees {
		at := -1
		if tree >= 0 {
			at = b.lendDescriptor(tree)
		}
		trees = append(trees, at)
	}
	if b.notify != nil && !b.plan.Bare {
		notify = b.lendDescriptor(fdOf(b.notify.file, b.starter.null))
	}
	if b.joined != nil {
		process = b.lendDescriptor(fdOf(b.joined, b.starter.null))
	}
	return trees, notify, process
}

// lendDescriptor lends fd to the child, which has it by the number that is returned.
func (b *preparation) lendDescriptor(fd int) int {
	b.lent = append(b.lent, fd)
	return len(b.lent) - 1
}

// cloneHere clones a child of this thread, and sees it take a table of descriptors of
// its own.
func (s *Starter) cloneHere(e childShape, list *callList, slot int, ids func(pid int) error) child {
	leave, err := sandbox.JoinNetwork(e.network)
	if err != nil {
		return child{err: err}
	}
	c := child{pidfd: -1}
	if c.control, err = openControl(slot); err == nil {
		if c.pid, c.pidfd, err = list.Start(e.flags); err != nil {
			err = sandbox.CloneError(errnoOf(err))
			_ = unix.Close(c.control)
		}
	}
	if leaveErr := leave(); leaveErr != nil {
		// This thread would start every later child in a foreign network.
		panic(leaveErr)
	}
	if err == nil {
		if err = ids(c.pid); err == nil {
			err = list.awaitSeparation(c)
		} else if failed := list.Failure(); failed != nil {
			err = failed // a process that has ended has no maps
		}
		if err != nil {
			c.endChild()
		}
	}
	_ = unix.Dup3(s.null, slot, unix.O_CLOEXEC)
	if err != nil {
		return child{err: err}
	}
	return c
}

// openControl makes the two ends of the conversation: ours, which the caller closes, and
// the child's, at slot.
func openControl(slot int) (ours int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, sandbox.OpenError("socketpair", "", err)
	}
	defer func() { _ = unix.Close(pair[1]) }()
	if err := unix.Dup3(pair[1], slot, unix.O_CLOEXEC); err != nil {
		_ = unix.Close(pair[0])
		return -1, sandbox.OpenError("dup3", "", err)
	}
	return pair[0], nil
}

// cloneFlags are what the child shares with us and what it does not: it has our memory,
// in which the call list is, and at first our descriptors.
//
// As another user and without namespaces it has a copy of the memory: others of that
// user could look into it.
func (b *preparation) cloneFlags() uintptr {
	flags := uintptr(unix.CLONE_FILES)
	if !b.plan.Bare {
		return flags | unix.CLONE_VM | sandbox.CloneFlags(b.plan.Sandbox)
	}
	if !b.id.change {
		flags |= unix.CLONE_VM
	}
	return flags
}

// awaitSeparation waits until the child needs no descriptor of ours any more. It does not
// wait for anything itself before it says so, but it may be killed.
func (s *callList) awaitSeparation(c child) error {
	either := []unix.PollFd{{Fd: int32(c.control), Events: unix.POLLIN}, {Fd: int32(c.pidfd), Events: unix.POLLIN}}
	if err := fd.PollAny(either, -1); err != nil {
		return &StepError{Step: "start", Errno: errnoOf(err)}
	}
	var word [1]byte
	if n, _, err := unix.Recvfrom(c.control, word[:], unix.MSG_DONTWAIT); err == nil && n == 1 && word[0] == msgSeparate {
		return nil
	}
	if err := s.Failure(); err != nil {
		return err
	}
	return &StepError{Step: "start", Errno: unix.ECHILD, Cure: "the new process was killed at once"}
}

// mapIDs gives the child's user namespace its ids, user_namespaces(7): the order is
// the kernel's, which wants to know of setgroups(2) before it allows groups.
func (b *preparation) mapIDs(pid int) error {
	if b.plan.Bare {
		return nil
	}
	uid, gid := b.id.hostIDs()
	groups := []string{fmt.Sprintf("%d %d 1\n", b.id.gid, gid)}
	for _, gid := range b.id.groups {
		if gid != b.id.gid {
			groups = append(groups, fmt.Sprintf("%d %d 1\n", gid, gid))
		}
	}
	setgroups := "deny"
	if b.id.change {
		setgroups = "allow"
	}
	for _, file := range []struct{ name, text string }{
		{"uid_map", fmt.Sprintf("%d %d 1\n", b.id.uid, uid)},
		{"setgroups", setgroups},
		{"gid_map", strings.Join(groups, "")},
	} {
		path := fmt.Sprintf("/proc/%d/%s", pid, file.name)
		err := writeOnce(path, file.text)
		switch errnoOf(err) {
		case unix.EMFILE, unix.ENFILE, unix.ENOENT: // it is not about the namespace
			return sandbox.OpenError("open", path, err)
		}
		if err != nil {
			return sandbox.CloneError(err)
		}
	}
	return nil
}

// writeOnce is one write(2): these files take no second one.
func writeOnce(name, text string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	defer func() { _ = unix.Close(fd) }()
	_, err = unix.Write(fd, []byte(text))
	return os.NewSyscallError("write", err)
}

// sendDescriptors gives the child what was lent for it.
func (b *preparation) sendDescriptors(control int) error {
	for some := range slices.Chunk(b.lent, fdpass.MaxFiles) {
		if _, err := fdpass.Send(control, []byte{msgFiles}, some...); err != nil {
			return err
		}
	}
	return nil
}
