package process

import (
	"os"

	"golang.org/x/sys/unix"

	"activator/internal/kernel/fd"
	"activator/internal/sandbox"
	"activator/internal/spec"
)

// child is what comes of a clone: a process that waits for what it needs.
type child struct {
	pid, pidfd int
	control    int // our end of the conversation
	calls      *callList
	err        error
}

// endChild ends it, and closes what it has but its call list.
func (c child) endChild() {
	if c.err != nil {
		return
	}
	_ = unix.Close(c.control)
	_ = unix.Kill(c.pid, unix.SIGKILL)
	_, _, _ = fd.ReapChild(c.pid)
	_ = unix.Close(c.pidfd)
}

// hasEnded reports whether it was killed.
func (c child) hasEnded() bool {
	events, _ := fd.Poll(c.pidfd, unix.POLLIN, 0)
	return events != 0
}

// cloner clones children, of threads that live as long as it does.
type cloner struct {
	*threads
	null  int      // /dev/null, lent to children
	slots chan int // descriptors at which a child finds its end of the conversation; each is returned after use
}

// openCloner opens what every start needs, and starts the threads. Early, and so low: a child
// copies the table of descriptors up to its slot.
func openCloner() (*cloner, error) {
	c := &cloner{slots: make(chan int, mostAtOnce)}
	var err error
	if c.null, err = unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return nil, sandbox.OpenError("open", os.DevNull, err)
	}
	for range mostAtOnce {
		slot, err := unix.FcntlInt(uintptr(c.null), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			c.closeDescriptors()
			return nil, sandbox.OpenError("fcntl F_DUPFD_CLOEXEC", os.DevNull, err)
		}
		c.slots <- slot
	}
	c.threads = startThreads()
	return c, nil
}

// closeDescriptors follows the end of the threads: every slot that was taken has been
// returned.
func (c *cloner) closeDescriptors() {
	for range len(c.slots) {
		_ = unix.Close(<-c.slots)
	}
	_ = unix.Close(c.null)
}

// takeSlot takes a slot, when there is one; os.ErrClosed says that there will be none.
func (c *cloner) takeSlot() (int, error) {
	select {
	case slot := <-c.slots:
		return slot, nil
	case <-c.done:
		return -1, os.ErrClosed
	}
}

// lowControl is the end of the conversation of most children: what they get has lower
// numbers.
const lowControl = 255

// childShape is a child that knows nothing of its service yet.
type childShape struct {
	flags    uintptr
	network  string // to be born in
	loopback bool   // it has one of its own
	control  int    // the number of its end of the conversation
}

// beginCalls writes down what is done before anything is known, and takes a slot.
func (c *cloner) beginCalls(shape childShape) (list *callList, slot int, err error) {
	if list, err = newCallList(); err != nil {
		return nil, -1, err
	}
	if slot, err = c.takeSlot(); err == nil {
		list.separate(slot, shape.control)
		if shape.loopback {
			sandbox.LoopbackUp(list.CallList)
		}
		list.receiveDescriptors()
		if err = list.Finish(); err != nil {
			c.slots <- slot
		}
	}
	if err != nil {
		list.Close()
		return nil, -1, err
	}
	return list, slot, nil
}

// cloneOnThread clones a child on one of our threads, has its ids mapped, and gives slot back.
func (c *cloner) cloneOnThread(shape childShape, list *callList, slot int, ids func(pid int) error) (made child) {
	if closed := c.runOnThread(func() { made = c.cloneHere(shape, list, slot, ids) }); closed != nil {
		made.err = closed
	}
	c.slots <- slot
	return made
}

// cloneHere clones a child of this thread, and sees it take a table of descriptors of
// its own.
func (c *cloner) cloneHere(shape childShape, list *callList, slot int, ids func(pid int) error) child {
	leave, err := sandbox.JoinNetwork(shape.network)
	if err != nil {
		return child{err: err}
	}
	made := child{pidfd: -1, calls: list}
	if made.control, err = openControl(slot); err == nil {
		if made.pid, made.pidfd, err = list.Start(shape.flags); err != nil {
			err = sandbox.CloneError(errnoOf(err))
			_ = unix.Close(made.control)
		}
	}
	if leaveErr := leave(); leaveErr != nil {
		// This thread would start every later child in a foreign network.
		panic(leaveErr)
	}
	if err == nil {
		if err = ids(made.pid); err == nil {
			err = made.awaitSeparation()
		} else if failed := list.Failure(); failed != nil {
			err = failed // a process that has ended has no maps
		}
		if err != nil {
			made.endChild()
		}
	}
	_ = unix.Dup3(c.null, slot, unix.O_CLOEXEC)
	if err != nil {
		return child{err: err}
	}
	return made
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

// awaitSeparation waits until the child needs no descriptor of ours any more. It does not
// wait for anything itself before it says so, but it may be killed.
func (c child) awaitSeparation() error {
	either := []unix.PollFd{{Fd: int32(c.control), Events: unix.POLLIN}, {Fd: int32(c.pidfd), Events: unix.POLLIN}}
	if err := fd.PollAny(either, -1); err != nil {
		return &StepError{Step: "start", Errno: errnoOf(err)}
	}
	var word [1]byte
	if n, _, err := unix.Recvfrom(c.control, word[:], unix.MSG_DONTWAIT); err == nil && n == 1 && word[0] == msgSeparate {
		return nil
	}
	if err := c.calls.Failure(); err != nil {
		return err
	}
	return &StepError{Step: "start", Errno: unix.ECHILD, Cure: "the new process was killed at once"}
}

// rootMounts is more than the root has mounts by default.
const rootMounts = 32

// newShape is the shape of a process's child. lent is how many descriptors it is lent.
func newShape(process *spec.Process, id identity, lent int) childShape {
	shape := childShape{flags: cloneFlags(process, id), control: lowControl}
	// So many descriptors are lent or opened at the most: every mount may be one.
	most := lent + len(process.Directories) + len(process.Sandbox.ReadOnly) + len(process.Sandbox.Writable) + rootMounts
	var limit unix.Rlimit
	switch {
	case most > lowControl || process.Sandbox.Root != "":
		shape.control = most + 4*lowControl
	case unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil && limit.Cur <= lowControl:
		shape.control = most
	}
	if !process.Bare {
		shape.loopback = sandbox.CloneFlags(process.Sandbox)&unix.CLONE_NEWNET != 0
		if sandbox.NetworkPath(process.Sandbox.Network) != "" {
			shape.network = process.Sandbox.Network
		}
	}
	return shape
}

// cloneFlags are what the child shares with us and what it does not: it has our memory,
// in which the call list is, and at first our descriptors.
//
// As another user and without namespaces it has a copy of the memory: others of that
// user could look into it.
func cloneFlags(process *spec.Process, id identity) uintptr {
	flags := uintptr(unix.CLONE_FILES)
	if !process.Bare {
		return flags | unix.CLONE_VM | sandbox.CloneFlags(process.Sandbox)
	}
	if !id.change {
		flags |= unix.CLONE_VM
	}
	return flags
}
