package spawn

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

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
	var status unix.WaitStatus
	for {
		if _, err := unix.Wait4(c.pid, &status, 0, nil); err != unix.EINTR {
			break
		}
	}
	_ = unix.Close(c.pidfd)
}

// clone has a child cloned on one of the starter's threads, which does meanwhile what
// takes no plan. It returns at once; the child comes later, to be discarded or adopted.
func (b *birth) clone() (<-chan child, error) {
	var err error
	if b.steps, err = newSteps(); err != nil {
		return nil, err
	}
	b.steps.root = func() string { return fmt.Sprintf("/proc/%d/root", b.pid) }
	slot, err := b.starter.takeSlot()
	if err != nil {
		return nil, err
	}
	b.steps.arrive(slot, len(b.lent))
	if !b.spec.Bare {
		b.spec.Sandbox.Begin(b.steps.Script, b.spec.Name)
	}
	b.steps.receive()
	if err := b.steps.Finish(); err != nil {
		b.starter.slots <- slot
		return nil, err
	}
	// The rest of us is written on meanwhile.
	born := natal{slot: slot, flags: b.flags(), network: b.network()}
	cloned := make(chan child, 1)
	go func() {
		c := child{pidfd: -1}
		if closed := b.starter.do(func() { c = b.cloneAt(born) }); closed != nil {
			c.err = closed
		}
		b.starter.slots <- slot
		cloned <- c
	}()
	return cloned, nil
}

// write writes the rest of the script down. The child's descriptors: 0 to 2, the
// sockets from 3 on where the program wants them, control, and what it only needs to build.
func (b *birth) write() error {
	s := b.steps
	extra := s.control + 1
	for _, tree := range b.trees {
		if tree >= 0 {
			b.lent = append(b.lent, tree)
		}
	}
	if b.notify != nil && !b.plan.Bare {
		b.lent = append(b.lent, lent(b.notify.file, b.starter.null))
	}
	s.receiveMore(len(b.lent))
	s.become(b)
	if b.sandbox != nil {
		b.build(extra)
		if err := s.confine(b); err != nil {
			return err
		}
	}
	if b.spec.Sandbox.Init {
		s.stage()
		return s.Finish()
	}
	s.say(wordReady)
	if !b.spec.Go {
		s.await(b.plan.Handed)
	}
	if err := s.enter(&b.plan); err != nil {
		return err
	}
	return s.Finish()
}

// build is the part that takes capabilities. What is lent for it stands from extra on.
func (b *birth) build(extra int) {
	var trees []int
	next := extra
	for _, tree := range b.trees {
		if tree < 0 {
			trees = append(trees, -1)
			continue
		}
		trees = append(trees, next)
		next++
	}
	notify := b.notify != nil
	keep := extra
	if notify {
		keep = b.steps.Free() // next is the socket, bound when there is a /run
	}
	b.sandbox.Build(b.steps.Script, trees, keep)
	if notify {
		b.steps.bindNotify(next)
	}
	b.steps.CloseFrom(extra)
}

// natal is what a child is born with.
type natal struct {
	slot    int
	flags   uintptr
	network string
}

// cloneAt clones the child, maps its ids, and sees it take a table of descriptors of
// its own.
func (b *birth) cloneAt(n natal) child {
	leave, err := sandbox.Join(n.network)
	if err != nil {
		return child{err: err}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	c := child{pidfd: -1, control: pair[0]}
	if err == nil {
		err = unix.Dup3(pair[1], n.slot, unix.O_CLOEXEC)
		_ = unix.Close(pair[1])
	}
	if err != nil {
		err = &StageError{Step: "start", Errno: errnoOf(err), Cure: "socketpair"}
	} else if c.pid, c.pidfd, err = b.steps.Start(n.flags); err != nil {
		err = sandbox.CloneError(errnoOf(err))
		_ = unix.Close(c.control)
	}
	if leaveErr := leave(); leaveErr != nil {
		// This thread would start every later child in a foreign network.
		panic(leaveErr)
	}
	if err == nil {
		if err = b.mapIDs(c.pid); err == nil {
			err = b.arrived(c)
		}
		if err != nil {
			c.discard()
		}
	}
	_ = unix.Dup3(b.starter.null, n.slot, unix.O_CLOEXEC)
	if err != nil {
		return child{err: err}
	}
	return c
}

// flags are what the child shares with us and what it does not: it has our memory,
// in which the script is, and at first our descriptors.
//
// As another user and without namespaces it has a copy of the memory: others of that
// user could look into it.
func (b *birth) flags() uintptr {
	flags := uintptr(unix.CLONE_FILES)
	if !b.spec.Bare {
		return flags | unix.CLONE_VM | b.spec.Sandbox.Clone()
	}
	if !b.id.change {
		flags |= unix.CLONE_VM
	}
	return flags
}

// arrived waits until the child needs no descriptor of ours any more. It does not
// wait for anything itself before it says so, but it may be killed.
func (b *birth) arrived(c child) error {
	poll := []unix.PollFd{{Fd: int32(c.control), Events: unix.POLLIN}, {Fd: int32(c.pidfd), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(poll, -1)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return &StageError{Step: "start", Errno: errnoOf(err)}
		}
		var word [1]byte
		if n, _, err := unix.Recvfrom(c.control, word[:], unix.MSG_DONTWAIT); err == nil && n == 1 && word[0] == wordAlone {
			return nil
		}
		if err := b.steps.Failure(); err != nil {
			return err
		}
		return &StageError{Step: "start", Errno: unix.ECHILD, Cure: "the new process was killed at once"}
	}
}

func (b *birth) network() string {
	if b.spec.Bare {
		return ""
	}
	return b.spec.Sandbox.Network
}

// mapIDs gives the child's user namespace its ids, user_namespaces(7): the order is
// the kernel's, which wants to know of setgroups(2) before it allows groups.
func (b *birth) mapIDs(pid int) error {
	if b.spec.Bare {
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
		err := writeOnce(fmt.Sprintf("/proc/%d/%s", pid, file.name), file.text)
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
	for some := b.lent; len(some) > 0; {
		n := min(len(some), mostRights)
		err := unix.Sendmsg(control, []byte{wordFiles}, unix.UnixRights(some[:n]...), nil, unix.MSG_NOSIGNAL)
		if err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		some = some[n:]
	}
	return nil
}
