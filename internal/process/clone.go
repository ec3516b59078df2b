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

// discard ends it, and closes what it has.
func (c child) discard() {
	if c.err != nil {
		return
	}
	_ = unix.Close(c.control)
	_ = unix.Kill(c.pid, unix.SIGKILL)
	_, _, _ = fd.Reap(c.pid)
	_ = unix.Close(c.pidfd)
}

// clone has a child cloned on one of the starter's threads, which does meanwhile what
// takes no plan; or it takes the one that is spare. It returns at once; the child comes
// later, to be discarded or adopted.
func (b *birth) clone() (<-chan child, error) {
	e := b.embryo()
	cloned := make(chan child, 1)
	if spare, ok := b.takeSpare(e); ok {
		b.steps = spare.steps
		if err := b.mapIDs(spare.pid); err != nil {
			spare.discard()
			return nil, err
		}
		cloned <- spare.child
		return cloned, nil
	}
	list, slot, err := b.starter.conceive(e)
	if err != nil {
		return nil, err
	}
	b.steps = list
	go func() { cloned <- b.starter.clone(e, list, slot, b.mapIDs) }()
	return cloned, nil
}

// embryo is a child that knows nothing of its service yet.
type embryo struct {
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

func (b *birth) embryo() embryo {
	e := embryo{flags: b.flags(), control: lowControl}
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

// conceive writes down what is done before anything is known, and takes a slot.
func (s *Starter) conceive(e embryo) (list *steps, slot int, err error) {
	if list, err = newSteps(); err != nil {
		return nil, -1, err
	}
	if slot, err = s.takeSlot(); err == nil {
		list.arrive(slot, e.control)
		if e.loopback {
			sandbox.LoopbackUp(list.CallList)
		}
		list.receive()
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

// clone clones a child on one of our threads, has its ids mapped, and gives slot back.
func (s *Starter) clone(e embryo, list *steps, slot int, ids func(pid int) error) (c child) {
	closed := s.do(func() { c = s.cloneHere(e, list, slot, ids) })
	if closed != nil {
		c.err = closed
	}
	s.slots <- slot
	return c
}

// write writes the rest of the call list down. The child's descriptors are what it is
// lent, by their places: 0 to 2, the sockets from 3 on where the program wants them,
// what it only needs to build; and far above control.
func (b *birth) write() error {
	s := b.steps
	s.root = func() string { return fmt.Sprintf("/proc/%d/root", b.pid) }
	extra := len(b.lent)
	trees, notify, process := b.lendMore()
	if len(b.lent) > s.control {
		return &StageError{Step: "start", Path: "mounts", Errno: unix.E2BIG, Cure: "these are too many"}
	}
	s.receiveMore(len(b.lent))
	s.become(b)
	if b.sandbox != nil {
		b.sandbox.Build(s.CallList, trees)
		if notify >= 0 {
			s.bindNotify(notify)
		}
		s.CloseFrom(extra)
		if err := s.confine(b); err != nil {
			return err
		}
	}
	if b.walls != nil {
		b.walls.Build(s.CallList, process)
		s.CloseFrom(extra)
		s.netnsCookie()
		s.handListener(b.walls.Confine(s.CallList))
	}
	if b.plan.Sandbox.Init {
		s.stage()
		return s.Finish()
	}
	s.say(wordReady)
	if b.waits() {
		s.await(b.plan.Handed)
	}
	if err := s.enter(&b.plan); err != nil {
		return err
	}
	return s.Finish()
}

// lendMore lends what the child only needs to build; -1 is what there is none of.
func (b *birth) lendMore() (trees []int, notify, process int) {
	notify, process = -1, -1
	for _, tree := range b.trees {
		at := -1
		if tree >= 0 {
			at = b.lend(tree)
		}
		trees = append(trees, at)
	}
	if b.notify != nil && !b.plan.Bare {
		notify = b.lend(lent(b.notify.file, b.starter.null))
	}
	if b.process != nil {
		process = b.lend(lent(b.process, b.starter.null))
	}
	return trees, notify, process
}

// lend lends fd to the child, which has it by the number that is returned.
func (b *birth) lend(fd int) int {
	b.lent = append(b.lent, fd)
	return len(b.lent) - 1
}

// cloneHere clones a child of this thread, and sees it take a table of descriptors of
// its own.
func (s *Starter) cloneHere(e embryo, list *steps, slot int, ids func(pid int) error) child {
	leave, err := sandbox.Join(e.network)
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
			err = list.arrived(c)
		} else if failed := list.Failure(); failed != nil {
			err = failed // a process that has ended has no maps
		}
		if err != nil {
			c.discard()
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

// flags are what the child shares with us and what it does not: it has our memory,
// in which the call list is, and at first our descriptors.
//
// As another user and without namespaces it has a copy of the memory: others of that
// user could look into it.
func (b *birth) flags() uintptr {
	flags := uintptr(unix.CLONE_FILES)
	if !b.plan.Bare {
		return flags | unix.CLONE_VM | sandbox.CloneFlags(b.plan.Sandbox)
	}
	if !b.id.change {
		flags |= unix.CLONE_VM
	}
	return flags
}

// arrived waits until the child needs no descriptor of ours any more. It does not
// wait for anything itself before it says so, but it may be killed.
func (s *steps) arrived(c child) error {
	either := []unix.PollFd{{Fd: int32(c.control), Events: unix.POLLIN}, {Fd: int32(c.pidfd), Events: unix.POLLIN}}
	if err := fd.PollAny(either, -1); err != nil {
		return &StageError{Step: "start", Errno: errnoOf(err)}
	}
	var word [1]byte
	if n, _, err := unix.Recvfrom(c.control, word[:], unix.MSG_DONTWAIT); err == nil && n == 1 && word[0] == wordAlone {
		return nil
	}
	if err := s.Failure(); err != nil {
		return err
	}
	return &StageError{Step: "start", Errno: unix.ECHILD, Cure: "the new process was killed at once"}
}

// mapIDs gives the child's user namespace its ids, user_namespaces(7): the order is
// the kernel's, which wants to know of setgroups(2) before it allows groups.
func (b *birth) mapIDs(pid int) error {
	if b.plan.Bare {
		return nil
	}
	uid, gid := b.id.host()
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

// send gives the child what was lent for it.
func (b *birth) send(control int) error {
	for some := range slices.Chunk(b.lent, fdpass.MaxFiles) {
		if _, err := fdpass.Send(control, []byte{wordFiles}, some...); err != nil {
			return err
		}
	}
	return nil
}
